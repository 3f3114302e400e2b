"""A file server with the tools of server-filesystem that an edit needs. Plain Python."""

import json
import sys
from pathlib import Path

ROOT = Path(sys.argv[1]).resolve()
TEXT = {"type": "string"}
EDIT = {"type": "object", "properties": {"oldText": TEXT, "newText": TEXT}}
TOOLS = [
    {
        "name": name,
        "description": about,
        "inputSchema": {"type": "object", "properties": {"path": TEXT} | more},
    }
    for name, about, more in (
        ("read_text_file", "Reads a file.", {}),
        ("edit_file", "Replaces text in a file.", {"edits": {"type": "array", "items": EDIT}}),
    )
]


def call(name: str, given: dict) -> str:
    path = (ROOT / given["path"]).resolve()
    if not path.is_relative_to(ROOT):
        raise ValueError("Access denied - path outside allowed directories")
    if name == "edit_file":
        for edit in given["edits"]:
            text = path.read_text()
            if edit["oldText"] not in text:
                raise ValueError("Could not find exact match for edit")
            path.write_text(text.replace(edit["oldText"], edit["newText"]))
        return "edited"
    return path.read_text()


def answer(method: str, params: dict) -> dict:
    if method == "initialize":
        info = {"name": "files", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "serverInfo": info}
    if method == "tools/list":
        return {"tools": TOOLS}
    try:
        text, failed = call(params["name"], params["arguments"]), False
    except (OSError, ValueError) as error:
        text, failed = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": failed}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = answer(asked["method"], asked.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
