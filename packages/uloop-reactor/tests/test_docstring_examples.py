"""The examples in the docstrings do what they say."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
import uloop_reactor
import uloop_reactor.handler
import uloop_reactor.uloop


@pytest.mark.parametrize("module", [uloop_reactor, uloop_reactor.handler, uloop_reactor.uloop])
def test_the_examples_of_a_module(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
