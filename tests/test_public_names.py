"""Every public name has an example, and the examples are true."""

import doctest
import inspect

import pytest

import ghn_jax


@pytest.mark.parametrize("name", ghn_jax.__all__)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(ghn_jax, name))
    test = doctest.DocTestParser().get_doctest(text, {"ghn_jax": ghn_jax}, name, None, 0)
    assert test.examples, f"ghn_jax.{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    runner.run(test, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)
