import errno
import io
import itertools
import json
import threading
import time
import warnings
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import av
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

from callbacks import Rollouts
from callbacks.previews import tags
from callbacks.previews.preview_writer import PreviewFiles
from callbacks.previews.render import render_preview, state_drift

PROMPTS = ["a red ball", "a <blue> & wide ocean"]


def previewed(module, frames=6):
    """Iterations at which a rollout of so many latent frames was streamed."""
    return [i for i, n in module.streamed if n == frames]


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


class Clock:
    """time.monotonic that moves only when told."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("callbacks.previews.rollouts.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def at_once(clock, monkeypatch):
    """Rendering and writing take no time, so that iterations alone decide when previews come."""

    class Inline:
        def __init__(self, *_, **__):
            pass

        def submit(self, call, *args):
            done = Future()
            done.set_result(call(*args))
            return done

        def shutdown(self, wait):
            pass

    monkeypatch.setattr("callbacks.previews.rollouts.ThreadPoolExecutor", Inline)
    monkeypatch.setattr("callbacks.previews.preview_writer.time.thread_time", lambda: 0.0)


def test_previews_come_at_the_start_every_so_often_and_at_the_end(fit, watched, at_once):
    module = watched()
    fit(module, Rollouts(PROMPTS, every=3, long=2, long_every=2), steps=7)
    assert previewed(module) == [0, 3, 6, 7]
    assert previewed(module, 12) == [3, 7], "every second preview has the long rollout, and so has the last"


@pytest.mark.slow
def test_a_last_iteration_that_was_just_previewed_gets_only_what_is_missing(fit, watched, at_once):
    module = watched()
    fit(module, Rollouts(PROMPTS, every=2, long=2, long_every=9), steps=2)
    assert previewed(module) == [0, 2] and previewed(module, 12) == [2]


def test_event_files_hold_gifs_strips_and_scalars_at_the_modules_iteration(fit, watched, events):
    module = watched()
    module.iteration = 40  # a resumed run: Lightning's global_step starts at 0 all the same
    _, run = fit(module, Rollouts(PROMPTS, every=100, long=2), steps=3)
    media, scalars = events(run / "media"), events(run)
    for tag in ("video_0: a red ball", "video_1: a <blue> & wide ocean", "strip", "drift", "attention"):
        steps = [step for step, _ in media[f"rollout_1x/{tag}"]]
        assert steps == [40, 43], tag
        assert [step for step, _ in media[f"rollout_2x/{tag}"]] == [43], tag
    gif = Image.open(io.BytesIO(media[tags.media_tag(1, "video_0", PROMPTS[0])][0][1].string_val[2]))
    assert gif.format == "GIF" and gif.n_frames == 2  # two flat chunks: equal pictures are merged
    strip = Image.open(io.BytesIO(media[tags.media_tag(1, "strip")][0][1].string_val[2]))
    assert strip.format == "PNG" and strip.width > 300

    [(first, step), (last, _)] = scalars[tags.state_step(1)]
    assert (first, last) == (40, 43) and step == pytest.approx(0.1 / 0.9)
    assert scalars[tags.state_cosine(2)] == [(43, pytest.approx(1.0))]
    assert scalars[tags.attention(1, "own")][0] == (40, 0.5)
    assert [v for _, v in scalars[tags.PREVIEW_FAILURES]] == [0, 0]
    assert not set(media) & set(scalars), "media have a run of their own"


def test_files_on_disk_show_the_stream_and_beside_it_the_state(fit, watched):
    _, run = fit(watched(), Rollouts(PROMPTS, every=100, long=0), steps=1)
    names = {p.name for p in (run / "videos").iterdir()}
    assert names == {f"0000000{i}-1x-{row}{kind}.mp4" for i in (0, 1) for row in (0, 1) for kind in ("", "-state")}
    video, state = (pictures(run / "videos" / f"00000001-1x-0{kind}.mp4") for kind in ("", "-state"))
    assert video.shape == state.shape == (12, 128, 128, 3)  # 2 chunks of 3 latents of 2 pictures
    assert np.abs(video.reshape(12, -1).mean(1) - np.repeat([1, 13], 6)).max() < 6
    assert np.abs(state.reshape(12, -1).mean(1) - np.repeat([255, 242], 6)).max() < 6
    assert {p.name for p in (run / "strips").iterdir()} == {"00000000-1x-strip.png", "00000001-1x-strip.png"}
    entries = [json.loads(line) for line in (run / "previews.jsonl").read_text().splitlines()]
    assert [e["iteration"] for e in entries] == [0, 1] and entries[0]["prompts"] == PROMPTS
    assert (run / "gallery.html").is_file()


def test_a_module_without_states_or_attention_shares_is_previewed_too(fit, watched, events):
    module = watched(with_state=False, with_shares=False)
    _, run = fit(module, Rollouts(PROMPTS, long=0), steps=1)
    media = events(run / "media")
    videos = {tags.media_tag(1, f"video_{row}", prompt) for row, prompt in enumerate(PROMPTS)}
    assert set(media) == {tags.media_tag(1, "strip"), *videos}
    assert not list((run / "videos").glob("*-state.mp4"))


def test_a_preview_changes_neither_training_nor_modes_nor_random_state(fit, watched, at_once):
    def trained(*callbacks):
        torch.manual_seed(0)
        module = watched()
        fit(module, *callbacks, steps=6)
        return module

    alone, seen = trained(), trained(Rollouts(PROMPTS, every=2, long=2, long_every=1))
    assert previewed(seen) == [0, 2, 4, 6]
    assert all(map(torch.equal, alone.seen, seen.seen)), "random numbers drawn in training"
    for name, value in alone.state_dict().items():
        assert torch.equal(value, seen.state_dict()[name]), name
    assert seen.drop.training and not seen.frozen.training


def test_a_stream_that_raises_is_warned_of_once_counted_and_survived(fit, watched, events, at_once):
    module = watched(fails=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, run = fit(module, Rollouts(PROMPTS, every=2, long=0), steps=5)
    assert module.iteration == 5
    said = [str(w.message) for w in caught if "preview" in str(w.message)]
    assert len(said) == 1 and all(part in said[0] for part in ("no such luck", "training continues", "Fix the error"))
    assert events(run)[tags.PREVIEW_FAILURES] == [(0, 1), (2, 2), (4, 3), (5, 4)]
    assert module.drop.training, "modes are restored after a failure"


def test_random_state_survives_a_stream_that_raises(fit, watched, at_once):
    calm, failing = watched(), watched(fails=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(calm, steps=3)
        fit(failing, Rollouts(PROMPTS, every=1), steps=3)
    assert all(map(torch.equal, calm.seen, failing.seen))


def test_a_writer_that_raises_is_counted_and_the_last_preview_is_still_tried(fit, watched, events, monkeypatch):
    def full(self, previews):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x.mp4")

    monkeypatch.setattr(PreviewFiles, "write", full)
    with pytest.warns(UserWarning, match=r"device: 'runs/x.mp4': check the free space and .* folder.\Z"):
        _, run = fit(watched(), Rollouts(PROMPTS, every=100, long=0), steps=2)
    assert events(run)[tags.PREVIEW_FAILURES][-1] == (2, 2)


def timed(watched, clock, iteration_s, preview_s):
    """A module whose iterations and previews take so many seconds of that clock."""

    class Timed(watched):
        def training_step(self, batch, batch_idx):
            clock.now += iteration_s
            return super().training_step(batch, batch_idx)

        def stream(self, prompts, frames, seed, index=None):
            clock.now += preview_s * frames / self.rollout_frames
            yield from super().stream(prompts, frames, seed)

    return Timed()


@pytest.mark.slow
def test_a_preview_that_takes_more_than_its_share_is_put_off_until_it_is_earned(fit, watched, clock, at_once, events):
    module = timed(watched, clock, iteration_s=1.0, preview_s=1.0)
    _, run = fit(module, Rollouts(PROMPTS, every=4, long=0, max_share=0.1), steps=25)
    # 1 s of preview is earned by 10 s of training: not by the 4 or 8, but the 2 after 8.
    assert previewed(module) == [0, 10, 20, 25], "the first and the last always run"
    shares = dict(events(run)[tags.PREVIEW_SHARE])
    assert all(share <= 0.1 for step, share in shares.items() if step != 25)


@pytest.mark.slow
def test_writing_counts_on_a_processor_that_training_needs_too(fit, watched, clock, at_once, monkeypatch):
    ticks = itertools.count(step=1.0)
    monkeypatch.setattr("callbacks.previews.preview_writer.time.thread_time", lambda: next(ticks))
    module = timed(watched, clock, iteration_s=1.0, preview_s=1.0)
    fit(module, Rollouts(PROMPTS, every=4, long=0, max_share=0.1), steps=24)
    assert previewed(module) == [0, 20, 24], "1 s of rendering and 1 s of writing"


@pytest.mark.slow
def test_a_cheap_preview_is_not_put_off(fit, watched, clock, at_once):
    module = timed(watched, clock, iteration_s=1.0, preview_s=0.1)
    fit(module, Rollouts(PROMPTS, every=4, long=0, max_share=0.03), steps=9)
    assert previewed(module) == [0, 4, 8, 9]


@pytest.mark.slow
def test_a_long_preview_is_judged_by_its_length_before_it_was_ever_rendered(fit, watched, clock, at_once):
    module = timed(watched, clock, iteration_s=1.0, preview_s=0.35)
    fit(module, Rollouts(PROMPTS, every=4, long=2, long_every=2, max_share=0.1), steps=15)
    assert previewed(module, 12) == [11, 15], "0.35 + 0.7 s of preview are earned by 10.5 s of training"


def test_a_preview_that_comes_while_the_last_is_being_written_is_skipped(fit, watched, clock, monkeypatch):
    release, writers = threading.Event(), []
    write = PreviewFiles.write

    def slow(self, previews):
        writers.append(threading.current_thread())
        release.wait(10)
        return write(self, previews)

    monkeypatch.setattr(PreviewFiles, "write", slow)
    monkeypatch.setattr("callbacks.previews.preview_writer.time.thread_time", lambda: 0.0)
    rollouts = Rollouts(PROMPTS, every=2, long=0)

    class Releasing(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if module.iteration == 6:
                release.set()
                while not rollouts._writing.done():
                    time.sleep(0.01)

    module = watched()
    fit(module, Releasing(), rollouts, steps=7)
    assert previewed(module) == [0, 6, 7], "2 and 4 came while 0 was being written"
    assert len(writers) == 3 and threading.main_thread() not in writers


def test_other_ranks_run_the_same_passes_and_write_nothing(watched):
    module = watched().eval()
    made = [render_preview(module, PROMPTS, 1, 0, torch.no_grad, True, keep) for keep in (True, False)]
    assert made[0] is not None and made[1] is None
    assert module.streamed == [(0, 6), (0, 6)]


def test_a_module_that_knows_no_longer_clip_is_not_shown_under_a_wrong_length(watched):
    module = watched().eval()
    stream = module.stream
    module.stream = lambda prompts, frames, seed, index: stream(prompts, min(frames, 6), seed, index)
    assert render_preview(module, PROMPTS, 1, 0, torch.no_grad, False, True).frames == 6
    assert render_preview(module, PROMPTS, 2, 0, torch.no_grad, False, True) is None


def test_the_same_seed_gives_the_same_preview(watched):
    module = watched().eval()
    with isolate_rng():
        one, two, other = (
            render_preview(module, PROMPTS, 1, seed, torch.no_grad, False, True).chunks for seed in (0, 0, 1)
        )
    assert all(map(torch.equal, one, two))
    assert not all(map(torch.equal, one, other))


def test_only_network_passes_run_in_the_precision_context(watched):
    inside = []

    class Context:
        active = False

        def __enter__(self):
            Context.active = True

        def __exit__(self, *_):
            Context.active = False

    module = watched().eval()
    stream, decode = module.stream, module.codec.decode
    module.stream = lambda *a, **k: (inside.append(("pass", Context.active)), stream(*a, **k))[1]
    module.codec.decode = lambda z: (inside.append(("decode", Context.active)), decode(z))[1]
    render_preview(module, PROMPTS, 1, 0, Context, False, True)
    assert set(inside) == {("pass", True), ("decode", False)}


def test_states_are_decoded_alone_with_a_fresh_decoder(watched):
    """The stream's decoder sees the chunks in order and nothing else."""
    module = watched().eval()
    streamed, alone = [], []

    class Decoder:
        def decode(self, latents):
            streamed.append(latents)
            return latents

    module.codec.stream = Decoder
    module.codec.decode = lambda z: (alone.append(z), z)[1]
    render_preview(module, PROMPTS, 1, 0, torch.no_grad, False, True)
    assert [z.shape[1] for z in streamed] == [3, 3] and [z.shape[1] for z in alone] == [1, 1]


def test_drift_measures_steps_against_the_norm_and_direction_against_the_first():
    e1, e2 = torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)
    e1[..., 0], e2[..., 1] = 3.0, 4.0
    found = state_drift([None, e1, e1, e2])
    assert found.first == 1
    assert found.step == pytest.approx([0.0, 5 / 4]) and found.cosine == pytest.approx([1.0, 1.0, 0.0])
    assert state_drift([None, None]) is None
    assert state_drift([e1]).step == []


def test_event_files_are_rotated_before_they_grow_large(tmp_path, watched, monkeypatch):
    monkeypatch.setattr("callbacks.previews.preview_writer.EVENT_FILE_BYTES", 5_000)
    files = PreviewFiles(tmp_path)
    files.write([render_preview(watched().eval(), PROMPTS, 1, 0, torch.no_grad, True, True)])
    files.close()
    written = list((tmp_path / "media").glob("events.out.*"))
    assert len(written) > 1


def test_prompts_may_come_from_a_text_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  two  \n")
    assert Rollouts(str(tmp_path / "p.txt")).prompts == ["one", "two"]


@pytest.mark.parametrize("wrong", [{"prompts": []}, {"every": -1}, {"long": 1}, {"long_every": 0}, {"max_share": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        Rollouts(**{"prompts": PROMPTS, **wrong})


def test_a_module_that_cannot_stream_is_refused_when_fit_begins(fit):
    from lightning.pytorch.demos.boring_classes import BoringModel

    with pytest.raises(TypeError, match=r"cannot preview BoringModel.*stream\(\)"):
        fit(BoringModel(), Rollouts(PROMPTS))


def test_a_preview_streams_as_many_prompts_at_a_time_as_a_device_bears(watched):
    asked = []

    class Large(watched):
        latent_size = (60, 104)

        def stream(self, prompts, frames, seed, index=None):
            asked.append((prompts, list(index)))
            yield from super().stream(prompts, frames, seed)

        def attention_share(self, prompts, frames, seed):
            asked.append((prompts, "shares"))
            return self._shares(prompts, frames, seed)

    module = Large(with_shares=False).eval()
    made = render_preview(module, ["a", "b", "c"], 2, 7, nullcontext, True, True)
    assert asked == [(["a"], [0]), (["b"], [1]), (["c"], [2]), (["a"], "shares")]
    assert all(len(chunk) == 3 for chunk in (*made.chunks, *made.states)) and len(made.chunks) == 4
