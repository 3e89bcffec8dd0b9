"""The examples in the docstrings do what they say."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
import uloop_reactor
from uloop_reactor import Uloop, datagram, handler, listener, stream, uloop


@pytest.mark.parametrize("module", [uloop_reactor, datagram, handler, listener, stream, uloop])
def test_the_examples_of_a_module(module: ModuleType) -> None:
    result = doctest.testmod(module, extraglobs={"Uloop": Uloop})
    assert result.attempted > 0
    assert result.failed == 0
