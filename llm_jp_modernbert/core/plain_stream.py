"""Streams a dataset from its first row to its last with `datasets` alone, in a process of its own. Run as a file.

Proof that a dataset needs nothing of this package: `python -I plain_stream.py` reads `{"folder": DIR, "split": NAME}`
as JSON from its input and writes `{"columns": [NAME, …], "rows": N, "sums": {NAME: N}, "items": {NAME: N}, "largest":
{NAME: N}}`: sums of the columns of integers, and of the columns of lists how many items there are, and the largest
where these are integers.
"""

import json
import sys

request = json.load(sys.stdin)

import pyarrow.compute as compute  # noqa: E402
from datasets import load_dataset  # noqa: E402
from pyarrow import types  # noqa: E402

dataset = load_dataset(request["folder"], split=request["split"], streaming=True)
found = {"columns": dataset.column_names, "rows": 0, "sums": {}, "items": {}, "largest": {}}
# As many rows as a record batch of a tokenised corpus has.
for table in dataset.with_format("arrow").iter(batch_size=256):
    found["rows"] += table.num_rows
    for name, column in zip(table.column_names, table.columns, strict=True):
        if types.is_integer(column.type):
            found["sums"][name] = found["sums"].get(name, 0) + (compute.sum(column).as_py() or 0)
        elif types.is_list(column.type):
            items = compute.list_flatten(column)
            found["items"][name] = found["items"].get(name, 0) + len(items)
            if types.is_integer(items.type) and len(items):
                found["largest"][name] = max(found["largest"].get(name, 0), compute.max(items).as_py())
if any(name.split(".")[0] == "llm_jp_modernbert" for name in sys.modules):
    sys.exit("llm_jp_modernbert was imported, so this proves nothing")
json.dump(found, sys.stdout)
