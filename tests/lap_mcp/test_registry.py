"""Which agents there are: file, store and discovery, merged; what happens when they change."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Capabilities
from lap_runtimes.testing import EVERYTHING

from lap_mcp.control.catalogue import CatalogueRow
from lap_mcp.control.changes import Change
from lap_mcp.control.registry import own_words
from lap_mcp.errors import Conflict, Invalid, NotFound, Unavailable
from lap_mcp.model import Agent
from tests.canary import canary
from tests.lap_mcp.town import Process, Town, info
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

LAB = '[runtimes.lab]\nkind = "listing"\nurl = "http://lab"\n'
SECOND = '[runtimes.second]\nkind = "listing"\nurl = "http://second"\n'


def row(name: str, ref: str = "r", runtime: str = "lab", description: str = "mine") -> CatalogueRow:
    words = own_words(description, None, None)
    return CatalogueRow(name=name, runtime=runtime, ref=ref, source="store", words=words)


async def ask(process: Process) -> None:
    with anyio.fail_after(10):
        await process.refresher.ask_runtimes()


async def test_discovered_agents_are_listed_with_whose_words_they_are(town: Town) -> None:
    town.host("http://lab", info("Research Helper", "Finds papers."))
    town.write(LAB)
    async with town.process() as process:
        assert process.names == []
        await ask(process)
        (agent,) = process.registry.agents()
    assert agent.name == "research_helper"
    assert agent.ref == "ref-Research Helper"
    assert agent.source == "discovery"
    assert agent.description == (
        "Agent “Research Helper” of runtime lab, in its own words: Finds papers."
    )


async def test_the_stored_catalogue_is_there_before_any_runtime_is_asked(town: Town) -> None:
    hosted = town.host("http://lab", info("one"))
    town.write(LAB)
    async with town.process() as process:
        await ask(process)
    hosted.down = True
    async with town.process() as process:
        assert process.names == ["one"]
        assert process.registry.agent("one").enabled
        await ask(process)
        assert process.names == ["one"]
        assert "nobody answers" in process.words
        assert process.registry.runtimes()[0]["state"] == "unreachable"


async def test_discovery_is_asked_once_and_not_again_before_it_is_due(town: Town) -> None:
    hosted = town.host("http://lab", info("one"))
    town.write(LAB)
    async with town.process(poll=60) as process:
        await ask(process)
        await ask(process)
    assert hosted.asked == 1
    assert hosted.closed == 1


async def test_file_goes_before_store_before_discovery(town: Town) -> None:
    town.host("http://lab", info("one"), info("two"), info("three"))
    town.write(
        LAB + "discover = true\n"
        '[agents.one]\nruntime = "lab"\nref = "ref-one"\ndescription = "The file\'s words."\n'
    )
    async with town.process() as process:
        await process.registry.add(row("two", "ref-two", description="The store's words."))
        await ask(process)
        found = {agent.name: (agent.source, agent.description) for agent in
                 process.registry.agents()}  # fmt: skip
    assert found["one"] == ("file", "The file's words.")
    assert found["two"] == ("store", "The store's words.")
    assert found["three"][0] == "discovery"
    assert set(found) == {"one", "two", "three"}


async def test_a_file_agent_without_words_gets_those_of_its_runtime(town: Town) -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    town.host("http://lab", info("one", "Says one.", input_schema=schema))
    town.write(LAB + 'discover = true\n[agents.mine]\nruntime = "lab"\n')
    async with town.process() as process:
        await ask(process)
        (agent,) = process.registry.agents()
    assert (agent.name, agent.ref) == ("mine", "ref-one")
    assert agent.description.endswith("in its own words: Says one.")
    assert agent.input_schema == schema


async def test_naming_agents_one_by_one_turns_discovery_off_unless_it_is_asked_for(
    town: Town,
) -> None:
    hosted = town.host("http://lab", info("one"), info("two"))
    town.write(LAB + '[agents.mine]\nruntime = "lab"\nref = "x"\n')
    async with town.process() as process:
        await ask(process)
        assert process.names == ["mine"]
    assert hosted.asked == 0


async def test_include_and_exclude_choose_among_discovered_agents(town: Town) -> None:
    town.host("http://lab", info("search_web"), info("search_mail"), info("delete_all"))
    town.write(LAB + 'include = ["search*"]\nexclude = ["*mail"]\n')
    async with town.process() as process:
        await ask(process)
        assert process.names == ["search_web"]


async def test_equal_names_of_two_runtimes_are_told_apart_and_never_exchanged(town: Town) -> None:
    lab = town.host("http://lab", info("helper"))
    town.host("http://second", info("helper", "the other"))
    town.write(LAB + SECOND)
    async with town.process() as process:
        await ask(process)
        first = {agent.name: agent.runtime for agent in process.registry.agents()}
    assert set(first) in ({"helper", "helper_lab"}, {"helper", "helper_second"})
    lab.infos = ()
    async with town.process() as process:
        await ask(process)
        left = {agent.name: agent.runtime for agent in process.registry.agents()}
        assert left == {name: rt for name, rt in first.items() if rt == "second"}
    lab.infos = (info("helper"),)
    async with town.process() as process:
        await ask(process)
        assert {agent.name: agent.runtime for agent in process.registry.agents()} == first


async def test_changed_words_are_hidden_until_they_are_accepted(town: Town) -> None:
    hosted = town.host("http://lab", info("one", "Harmless."))
    town.write(LAB)
    async with town.process(poll=0) as process:
        await ask(process)
        hosted.infos = (info("one", "Writes to the disk."),)
        await ask(process)
        assert "Harmless." in process.registry.agent("one").description
        assert "lap-mcp agents accept one" in process.words
        await process.registry.accept("one")
        assert "Writes to the disk." in process.registry.agent("one").description
        assert "accept" not in process.words
        with pytest.raises(Conflict, match="no newer words"):
            await process.registry.accept("one")


async def test_words_that_change_back_leave_nothing_to_accept(town: Town) -> None:
    hosted = town.host("http://lab", info("one", "A."))
    town.write(LAB)
    async with town.process(poll=0) as process:
        await ask(process)
        hosted.infos = (info("one", "B."),)
        await ask(process)
        hosted.infos = (info("one", "A."),)
        await ask(process)
        assert process.registry.rows()["one"].pending is None


async def test_a_trusted_runtime_changes_its_words_at_once(town: Town) -> None:
    hosted = town.host("http://lab", info("one", "A."))
    town.write(LAB + "trust = true\n")
    async with town.process(poll=0) as process:
        await ask(process)
        hosted.infos = (info("one", "B."),)
        await ask(process)
        assert process.registry.agent("one").description.endswith("B.")


async def test_a_runtime_that_cannot_be_used_costs_only_its_own_agents(town: Town) -> None:
    town.host("http://lab", info("one"))
    town.write(
        LAB + '[runtimes.strange]\nkind = "telepathy"\n'
        '[runtimes.secretive]\nkind = "listing"\nurl = "http://second"\n'
        'auth = { bearer = "env:NOT_SET" }\n'
        '[agents.a]\nruntime = "strange"\n[agents.b]\nruntime = "secretive"\n'
    )
    async with town.process() as process:
        await ask(process)
        enabled = {agent.name: agent.enabled for agent in process.registry.agents()}
        assert enabled == {"one": True, "a": False, "b": False}
        assert f"{town.file}:5 runtimes.strange.kind: There is no runtime kind" in process.words
        assert f"{town.file}:9 runtimes.secretive.auth.bearer: " in process.words
        assert "NOT_SET" in process.registry.agent("b").problem
        with pytest.raises(Unavailable, match="NOT_SET"):
            process.registry.runtime_for(process.registry.agent("b"))
        assert await process.registry.capabilities(process.registry.agent("b")) is None


async def test_what_a_runtime_can_do_is_known_before_it_was_used_and_it_is_made_once(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.host("http://lab", info("one"))
    town.write(LAB)
    async with town.process() as process:
        connections = process.registry.connections
        await connections.validate()
        made: list[str] = []
        threads: set[int] = set()
        make = connections._made

        def noted(connection: Any, config: Any) -> Any:
            made.append(connection.name)
            threads.add(threading.get_ident())
            return make(connection, config)

        monkeypatch.setattr(connections, "_made", noted)
        connection = connections.all()[0]
        connection.runtime = None
        agent = Agent(name="x", runtime=connection.name, ref="r")
        found: list[Capabilities | None] = []

        async def look() -> None:
            found.append(await process.registry.capabilities(agent))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(look)
        assert found == [process.registry.runtime_for(agent).capabilities] * 3
        assert made == [connection.name]
        assert threading.get_ident() not in threads


@pytest.mark.parametrize("name", ["code_interpreter", "lap_status", "get_session_x", "recall"])
async def test_reserved_names_are_refused_in_the_file_with_their_line(
    town: Town, name: str
) -> None:
    town.host("http://lab")
    town.write(LAB + f'[agents.{name}]\nruntime = "lab"\n')
    async with town.process() as process:
        assert process.names == []
        assert f"{town.file}:4 agents.{name}: This name is reserved" in process.words
        with pytest.raises(Invalid, match="reserved"):
            await process.registry.add(row(name))


async def test_an_unknown_agent_is_told_with_the_nearest_name(town: Town) -> None:
    town.host("http://lab", info("research"))
    town.write(LAB)
    async with town.process() as process:
        await ask(process)
        with pytest.raises(NotFound, match="Did you mean `research`"):
            process.registry.agent("reserch")


async def test_what_is_added_is_checked(town: Town) -> None:
    town.host("http://lab", info("one"))
    town.write(LAB)
    async with town.process() as process:
        await ask(process)
        with pytest.raises(Invalid, match=r"lower-case"):
            await process.registry.add(row("No-Name"))
        with pytest.raises(Invalid, match=r"Did you mean `lab`"):
            await process.registry.add(row("x", runtime="lap"))
        with pytest.raises(Conflict, match="belongs to"):
            await process.registry.add(row("one", "another"))


async def test_one_agent_is_not_added_under_a_second_name(town: Town) -> None:
    town.host("http://lab", info("Helper"))
    town.write(LAB + '[agents.mine]\nruntime = "lab"\nref = "x"\n')
    async with town.process() as process:
        with pytest.raises(Conflict, match="registered already, as mine"):
            await process.registry.add(row("second", ref="x"))
        assert "second" not in process.registry.rows()
        await process.registry.add(row("third", ref="y"))
        with pytest.raises(Conflict, match="registered already, as third"):
            await process.registry.add(row("fourth", ref="y"))
        assert process.names == ["mine", "third"]


async def test_an_added_agent_is_forgotten_and_a_discovered_one_hidden(town: Town) -> None:
    town.host("http://lab", info("found"))
    town.write(LAB)
    async with town.process(poll=0) as process:
        await process.registry.add(row("mine"))
        await ask(process)
        await process.registry.remove("mine")
        await process.registry.remove("found")
        assert process.names == []
        await ask(process)
        assert process.names == []
        with pytest.raises(NotFound):
            await process.registry.remove("mine")


async def test_an_agent_of_the_file_is_removed_from_the_file_only(town: Town) -> None:
    town.host("http://lab")
    town.write(LAB + '[agents.a]\nruntime = "lab"\n')
    async with town.process() as process:
        with pytest.raises(Conflict, match="Remove"):
            await process.registry.remove("a")


async def test_a_process_notices_what_another_one_added(town: Town) -> None:
    town.host("http://lab")
    town.write(LAB)
    async with (
        town.process() as server,
        town.process() as command,
        anyio.create_task_group() as tasks,
        server.changes.follow() as changes,
    ):
        tasks.start_soon(server.refresher.run)
        with anyio.fail_after(10):
            await server.refresher.settled.wait()
        await command.registry.add(row("new"))
        with anyio.fail_after(10):
            async for change in changes:
                if change == Change("tools"):
                    break
        assert server.names == ["new"]
        tasks.cancel_scope.cancel()


async def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(town: Town) -> None:
    lab = town.host("http://lab", info("one"))
    town.host("http://second", info("two"))
    town.write(LAB)
    async with town.process() as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.refresher.run)
        await eventually_async(lambda: server.names == ["one"])
        town.write(LAB + SECOND)
        await eventually_async(lambda: server.names == ["one", "two"])
        town.write("[runtimes.lab\n")
        await eventually_async(lambda: "was changed and has errors" in server.words)
        assert server.names == ["one", "two"]
        town.write(SECOND)
        await eventually_async(lambda: server.names == ["two"])
        assert "errors" not in server.words
        assert lab.closed == 0, "turns may still run over it"
        tasks.cancel_scope.cancel()
    assert lab.closed == 1


async def test_tables_that_are_read_at_the_start_only_say_so(town: Town) -> None:
    town.write("[sandbox]\nwarm = 1\n")
    async with town.process() as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.refresher.run)
        await server.refresher.settled.wait()
        town.write("[sandbox]\nwarm = 2\n")
        await eventually_async(lambda: "[sandbox] changed and takes effect" in server.words)
        tasks.cancel_scope.cancel()


async def test_two_processes_that_discover_at_once_agree_on_the_names(town: Town) -> None:
    town.host("http://lab", *(info(f"agent {n}") for n in range(20)))
    town.write(LAB)
    async with town.process() as one, town.process() as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one)
            tasks.start_soon(ask, other)
        assert len(one.names) == 20
        await other.registry.reload_rows()
        await one.registry.reload_rows()
        assert one.names == other.names


async def test_a_runtime_that_cannot_list_says_what_to_write(town: Town) -> None:
    cannot = replace(EVERYTHING, discover=False)
    hosted = town.host("http://lab", capabilities=cannot)
    town.write(LAB)
    async with town.process() as process:
        await ask(process)
        assert process.words == ""
    assert hosted.asked == 0


async def test_a_listing_is_shown_without_its_secrets(town: Town) -> None:
    secret = canary("address")
    town.host(f"http://user:{secret}@lab/path?token={secret}")
    town.environ["TOKEN"] = canary("bearer")
    town.write(
        '[runtimes.lab]\nkind = "listing"\n'
        f'url = "http://user:{secret}@lab/path?token={secret}"\n'
        'auth = { bearer = "env:TOKEN" }\n'
    )
    async with town.process() as process:
        await ask(process)
        (shown,) = process.registry.runtimes()
    assert shown["url"] == "http://lab/path"
    assert secret not in repr(shown)
    town.file.unlink()  # here the test itself wrote a secret where none belongs


async def test_an_adapter_that_breaks_costs_only_its_own_agents(town: Town) -> None:
    town.host("http://lab", info("one"))
    town.host("http://second", broken=True)
    town.write(LAB + SECOND + '[runtimes.third]\nkind = "listing"\nurl = "http://not-hosted"\n')
    async with town.process() as process:
        await ask(process)
        assert process.names == ["one"]
        assert "runtime second: Its adapter broke: KeyError." in process.words
        assert f"{town.file}:7 runtimes.third: Its adapter broke: KeyError." in process.words


async def test_a_stored_agent_whose_name_the_file_takes_is_hidden_and_told(town: Town) -> None:
    town.host("http://lab")
    town.write(LAB)
    async with town.process() as process:
        await process.registry.add(row("helper", "stored"))
    town.write(LAB + '[agents.helper]\nruntime = "lab"\nref = "other"\n')
    async with town.process() as process:
        assert process.registry.agent("helper").ref == "other"
        assert "agent helper: The stored agent 'stored' of runtime lab is hidden" in process.words


async def test_a_stored_agent_without_its_runtime_is_disabled_with_the_reason(town: Town) -> None:
    town.host("http://lab")
    town.write(LAB)
    async with town.process() as process:
        await process.registry.add(row("helper"))
    town.write("")
    async with town.process() as process:
        agent = process.registry.agent("helper")
        assert not agent.enabled
        assert agent.problem == "There is no [runtimes.lab] in the configuration."


async def test_a_secret_file_that_others_can_read_is_told(town: Town) -> None:
    town.host("http://lab")
    secret = town.folder / "token.secret"
    secret.write_text(canary("secret-file"))
    secret.chmod(0o644)
    town.write(LAB + f'auth = {{ bearer = "file:{secret}" }}\n')
    async with town.process() as process:
        await ask(process)
        assert f"{secret}: Others can read this secret." in process.words
