"""(hand, its fit) -> is the fit believed? and (hand, side) -> Fit of an open hand that lies where it lies.

Of a malformed hand the joints of single fingers mean little: a fit follows them into folded and foreshortened
hands. Their mean, from the wrist, still says which way the hand points.
"""
from __future__ import annotations

import math

import torch

from .found import Hand
from .pose import Fit, fit_hands
from .render import silhouette
from .score import points_of
from .skeleton import FAN, STATE, joints_of

SPREAD = 0.25  # of the metacarpals' fan, by which fingers are opened further
TRUSTED = 0.8  # IoU of fit and mask from which a fit is believed: well drawn hands of any pose have 0.85


def trusted(fit: Fit, hand: Hand) -> bool:
    """Whether a fit of one hand covers what the detector saw; without a mask nothing speaks against it."""
    if hand.mask is None or not bool(hand.mask.any()):
        return True
    drawn = silhouette(fit.joints[0], fit.radii[0], tuple(hand.mask.shape))
    return float((drawn & hand.mask).sum() / (drawn | hand.mask).sum()) >= TRUSTED


def open_hand(hand: Hand, side: int) -> Fit:
    """Five open fingers seen flat, as large as the hand's box, turned as its joints are on the whole."""
    state = torch.zeros(1, STATE)
    state[0, 6:22:4] = -SPREAD * torch.tensor(FAN).deg2rad()
    rest = joints_of(state, torch.tensor([side]))[0, :, :2]
    seen = points_of([hand])[0][0]
    (x, y), (a, b) = ((points[5:].mean(0) - points[0]).tolist() for points in (seen, rest))
    angle = math.atan2(y, x) - math.atan2(b, a)
    c, s = math.cos(angle), math.sin(angle)
    turned = rest @ torch.tensor([[c, s], [-s, c]])
    low, high = turned.amin(0), turned.amax(0)
    left, top, right, bottom = hand.box
    middle = torch.tensor([left + right, top + bottom]) / 2
    points = (turned - (low + high) / 2) * (hand.long / float((high - low).max())) + middle
    return fit_hands(points[None], torch.ones(1, 21), torch.tensor([side]))
