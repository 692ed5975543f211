"""An agent's session over MCP: it looks around, makes a VM, runs something in it, and deletes it.

Usage: HOSTLER_TOKEN=... agent.py URL CA.pem auto|legacy VM_NAME

`auto` lets the client choose the newest revision that both sides speak, `legacy` makes it shake
hands as older clients do. Prints what happens, one line each, as JSON.
"""

import asyncio
import json
import os
import ssl
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


def say(**what):
    print(json.dumps(what, sort_keys=True), flush=True)


async def session(client, vm):
    listed = (await client.list_tools()).tools
    tools = {tool.name: tool for tool in listed}
    say(
        revision=client.protocol_version,
        server=client.server_info.name,
        instructions=bool(client.instructions),
        tools=len(tools),
        read_only=sorted(n for n, t in tools.items() if t.annotations.read_only_hint),
        destructive=sorted(n for n, t in tools.items() if t.annotations.destructive_hint),
    )

    async def call(name, /, **arguments):
        heard = []

        async def progress(done, total, message):
            heard.append(message)

        # The client itself holds the structured answer against the tool's schema.
        result = await client.call_tool(name, arguments, progress_callback=progress)
        answer = result.structured_content
        if result.is_error:
            answer = json.loads(result.content[0].text)["error"]
        say(call=name, failed=result.is_error, answer=answer, progress=len(heard))
        return answer

    await call("vms_create", name=vm, memory_mb=128)
    await call("vms_start", name=vm)
    await call("vms_run", name=vm, argv=["uname", "-sm"])
    await call("vms_get", name=vm)
    await call("vms_list", limit=10)
    await call("vms_delete", name=vm)
    await call("vms_delete", name=vm, force=True)
    await call("vms_get", name=vm)
    await call("vms_create", name=vm, memory=128)


async def main():
    url, ca, mode, vm = sys.argv[1:]
    client = httpx2.AsyncClient(
        verify=ssl.create_default_context(cafile=ca),
        headers={"Authorization": f"Bearer {os.environ['HOSTLER_TOKEN']}"},
        timeout=90,
    )
    async with client, Client(streamable_http_client(url, http_client=client), mode=mode) as agent:
        await session(agent, vm)


asyncio.run(main())
