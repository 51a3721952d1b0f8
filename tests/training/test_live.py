"""A run's picture is drawn anew while the run goes on, and once more at its end."""

import json
import threading

import matplotlib.image
import numpy as np

from ghn_jax.training.live import redrawing
from ghn_jax.training.loop import pace
from ghn_jax.training.plot import plot_runs
from ghn_jax.training.watch import METRICS

PNG = b"\x89PNG\r\n"


def step(number):
    return json.dumps({"step": number, "minutes": number / 60, "loss": 2.0 / number, "accuracy": 0.1 * number}) + "\n"


def test_pictures_follow_the_run(tmp_path):
    shown, two = [], threading.Event()

    def show(content):
        shown.append(content)
        if len(shown) == 2:
            two.set()

    with redrawing(tmp_path, 0.01, show):
        assert shown == []  # nothing before the first step
        with open(tmp_path / METRICS, "a") as file:
            for number in (1, 2):
                file.write(step(number))
                file.flush()
            file.write('{"step": 3, "los')  # cut off, as while it is being written
            file.flush()
            assert two.wait(60)
    assert len(shown) >= 3 and all(content.startswith(PNG) for content in shown)
    drawn = len(shown)
    assert not [thread for thread in threading.enumerate() if thread.name == "ghn_jax_live"]
    assert len(shown) == drawn


def test_a_run_without_a_step_shows_nothing(tmp_path):
    shown = []
    with redrawing(tmp_path, 0.01, shown.append):
        pass
    assert shown == []


def test_the_first_steps_say_how_long_a_run_takes():
    seconds = [60.0, *[2.0] * 9]  # the first one waited for the compiler
    assert pace(seconds, 300, None) == "10 steps in 78 s: the other 300 take 10 to 39 minutes"
    assert pace(seconds, 300, 5.0).endswith(", more than config.max_minutes=5")
    assert pace(seconds, 300, 30.0).endswith("39 minutes")


def test_a_run_of_four_steps_has_curves(tmp_path):
    (tmp_path / METRICS).write_text("".join(step(number) for number in (1, 2, 3, 4)))
    plot_runs([tmp_path], tmp_path / "run.png")
    picture = matplotlib.image.imread(tmp_path / "run.png")
    blue = np.all(np.abs(picture[:400, :, :3] * 255 - (31, 119, 180)) < 2, axis=-1)  # above the legend
    for half in np.split(blue, 2, axis=1):  # loss, accuracy
        columns = np.flatnonzero(half.any(axis=0))
        assert columns[-1] - columns[0] > 400
