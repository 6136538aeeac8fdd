import io
import json
import logging

import pytest
import structlog

from service import logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False
    structlog.reset_defaults()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_and_level(stream):
    logs.logger(stream).info("request", code=200, route="/embed")
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"event": "request", "level": "info", "code": 200, "route": "/embed"}


def test_what_a_client_sent_cannot_end_a_line_or_break_it(stream):
    logs.logger(stream).info("a\nb", id='x"\r\n{"level":"error"}', half="\ud800", more={1: b"x"})
    (line,) = lines(stream)
    assert line["event"] == "a\nb"
    assert line["half"] == "\\ud800"


def test_less_severe_lines_than_the_level_are_not_written(stream):
    logger = logs.logger(stream, level="warning")
    logger.info("not this")
    logger.warning("this")
    assert [line["event"] for line in lines(stream)] == ["this"]


def quote(text):
    try:
        {}[text]
    except KeyError as error:
        raise ValueError(text) from error


def test_an_exception_is_written_with_frames_and_a_cut_message(stream):
    logger = logs.logger(stream)
    try:
        quote("x" * 1000)
    except ValueError:
        logger.exception("failed")
    (line,) = lines(stream)
    assert (line["exception"], line["caused_by"]) == ("ValueError", "KeyError")
    assert len(line["message"]) == 200
    assert line["frames"][-1].endswith(" quote")


def test_an_exception_may_be_given_as_itself_or_as_a_triple(stream):
    error = OSError("gone")
    logs.logger(stream).error("a", exc_info=error)
    logs.logger(stream).error("b", exc_info=(OSError, error, None))
    logs.logger(stream).error("c", exc_info=None)
    assert [line.get("exception") for line in lines(stream)] == ["OSError", "OSError", None]


def test_libraries_write_the_same_lines(stream):
    logs.configure("info", stream=stream)
    structlog.get_logger().info("ours", n=1)
    logging.getLogger("uvicorn.error").warning("theirs %s", "too")
    logging.getLogger("uvicorn.access").warning("twice")
    logging.getLogger("httpx").info("chatter")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["n"]) == ("ours", 1)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "theirs too",
        "warning",
        "uvicorn.error",
    )
