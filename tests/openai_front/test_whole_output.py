"""What the model is told about output that is longer than what it reads."""

from lap_sandbox.base import Execution, Left

from lap_mcp.openai_front.results import result_of


def test_the_model_is_told_where_all_of_a_long_output_is_and_the_application_is_not() -> None:
    execution = Execution(
        id="e",
        status="ok",
        stdout="x" * 100_000,
        stderr="e" * 2000,
        stdout_dropped=5,
        stdout_left=Left(path="printed/3.txt", missing=0),
        stderr_left=Left(path="printed/3-stderr.txt", missing=7),
    )
    result = result_of(execution, pictures=(), files={})
    assert "(All of the output is in /mnt/data/printed/3.txt.)" in result.told
    where = "/mnt/data/printed/3-stderr.txt"
    assert f"(All of the standard error is in {where}, but for its last 7 bytes.)" in result.told
    assert "/mnt/data" not in result.logs


def test_nothing_is_said_where_all_of_it_is_shown() -> None:
    result = result_of(Execution(id="e", status="ok", stdout="x"), pictures=(), files={})
    assert result.told == "x"
