import pytest
import torch
from families import TABLES
from tweedie_pack.demo.exact import guided, random_mixture
from tweedie_pack.samplers.measure import Cache, cache_key, errors, from_text, measure
from tweedie_pack.samplers.recommend import recommended
from tweedie_pack.samplers.schedules import SCHEDULES
from tweedie_pack.samplers.solvers import sample_2m

SD = TABLES["sd15_eps"]


def problem(count, seed):
    mixture = random_mixture(size=8)
    model = guided(mixture, 5.0, torch.cat([torch.zeros(8), torch.full([24], -40.0)]).double())
    generator = torch.Generator().manual_seed(seed)
    x = mixture.sample(count, generator) + float(SD[-1]) * torch.randn(
        [count, 4, 8, 8], generator=generator, dtype=torch.float64)
    return lambda sigmas, few: sample_2m(model, x[:few], sigmas.double(), disable=True)


@pytest.fixture(scope="module")
def found():
    seen = []
    return measure(problem(16, 1), SD, 5, progress=lambda done, planned: seen.append((done, planned))), seen


def test_a_measured_schedule_wins_on_trajectories_that_it_never_saw(found):
    held_out = problem(32, 2)
    reference = held_out(SCHEDULES["karras"].run(200, SD), 32)
    ours = errors(held_out(found[0].sigmas, 32), reference)
    rivals = [errors(held_out(plugin.run(5, SD), 32), reference) for plugin in SCHEDULES.values()]
    rivals.append(errors(held_out(recommended(5, SD, "multistep"), 32), reference))
    assert ours.median() < 0.9 * min(error.median() for error in rivals)
    assert ours.mean() <= min(error.mean() for error in rivals)


def test_progress_climbs_to_what_was_planned(found):
    done, planned = zip(*found[1], strict=True)
    assert list(done) == sorted(done) and done[-1] == planned[-1] and len(set(planned)) == 1


def test_an_interrupt_goes_through():
    class Interrupt(BaseException):
        pass

    def stop(done, planned):
        if done > planned / 2:
            raise Interrupt
    with pytest.raises(Interrupt):
        measure(problem(16, 1), SD, 3, progress=stop)


def test_it_is_kept_on_disk_and_travels_as_text(found, tmp_path):
    cache, key = Cache(tmp_path / "cache"), cache_key(sampler="2m", cfg=5.0, table=SD)
    assert cache.read(key, SD) is None
    cache.write(key, found[0])
    again = cache.read(key, SD)
    assert torch.equal(again.sigmas, found[0].sigmas) and again.candidate == found[0].candidate
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".txt"]
    assert key != cache_key(sampler="2m", cfg=5.5, table=SD) != cache_key(sampler="2m", cfg=5.0, table=SD + 1)


@pytest.mark.parametrize("text", ("", "hello", "tweedie-schedule 1 | x | 1 2 | 14.6 nonsense 0",
                                  "tweedie-schedule 2 | x | 1 2 | 14.6146 1 0"))
def test_foreign_text_is_refused(text):
    with pytest.raises(ValueError, match="measured schedule: .*tweedie-schedule 1"):
        from_text(text, SD)


def test_text_for_another_model_is_refused(found):
    with pytest.raises(ValueError, match="this model starts at 1"):
        from_text(found[0].to_text(), TABLES["flux"])


def test_too_few_trajectories_and_broken_models_are_refused():
    with pytest.raises(ValueError, match="fewer than 16 pick schedules by luck"):
        measure(problem(4, 1), SD, 5, trajectories=4)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        measure(lambda sigmas, count: torch.full([count, 1], torch.nan), SD, 5)
