"""Streams a whole dataset with `datasets` alone. Run as a script in a separate process, never imported.

It proves that a dataset does not need this package. `python -I plain_stream.py` reads `{"folder": DIR, "split": NAME}`
as JSON from standard input. It writes the names of the columns, the number of rows, the `sums` of integer columns, and
for list columns the number of `items`, and the `smallest` and `largest` integer.
"""

import json
import sys

request = json.load(sys.stdin)

import pyarrow.compute as compute  # noqa: E402
from datasets import load_dataset  # noqa: E402
from pyarrow import types  # noqa: E402

dataset = load_dataset(request["folder"], split=request["split"], streaming=True)
counts = {"columns": dataset.column_names, "rows": 0, "sums": {}, "items": {}, "smallest": {}, "largest": {}}
# The size of the record batches of a tokenized corpus.
for table in dataset.with_format("arrow").iter(batch_size=256):
    counts["rows"] += table.num_rows
    for name, column in zip(table.column_names, table.columns, strict=True):
        if types.is_integer(column.type):
            counts["sums"][name] = counts["sums"].get(name, 0) + (compute.sum(column).as_py() or 0)
        elif types.is_list(column.type):
            items = compute.list_flatten(column)
            counts["items"][name] = counts["items"].get(name, 0) + len(items)
            if types.is_integer(items.type) and len(items):
                counts["smallest"][name] = min(counts["smallest"].get(name, 0), compute.min(items).as_py())
                counts["largest"][name] = max(counts["largest"].get(name, 0), compute.max(items).as_py())
if any(name.split(".")[0] == "llm_jp_modernbert" for name in sys.modules):
    sys.exit("llm_jp_modernbert was imported, so the check is invalid")
json.dump(counts, sys.stdout)
