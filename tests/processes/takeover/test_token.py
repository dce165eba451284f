"""Who reads the byte goes on, and nobody else."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from userproxy.processes.takeover.token import Token


@pytest.fixture
def token() -> Iterator[Token]:
    with closing(Token.make()) as made:
        yield made


def test_the_successor_has_it_once(token: Token) -> None:
    assert token.take()
    assert not token.take()
    assert not token.take_back()


def test_what_is_taken_back_is_no_more_the_successors(token: Token) -> None:
    assert token.take_back()
    assert not token.take()


def test_all_processes_of_the_predecessor_hear_that_it_was_taken_back(token: Token) -> None:
    with closing(Token(os.dup(token.reading), os.dup(token.writing))) as another:
        assert token.take_back()
        assert not token.take(), "the successor looks in between"
        assert another.take_back()
        assert another.take_back()


def test_word_of_another_process_is_waited_for(token: Token) -> None:
    os.read(token.reading, 1)
    timer = threading.Timer(0.05, os.write, (token.writing, b"\1"))
    timer.start()
    assert token.take_back(10.0)
    timer.join()


def test_a_pipe_that_is_closed_is_nobody_s(token: Token) -> None:
    successor = Token(os.dup(token.reading))
    os.read(token.reading, 1)
    os.close(token.writing)
    token.writing = -1
    assert not successor.take()
    successor.close()
