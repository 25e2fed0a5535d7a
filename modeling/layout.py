"""Layout of a batch: the mapping between the user's tensors and one packed row of documents.

Inside the model a batch is one row of `total_tokens` tokens. `PackedLayout` holds the document and the position of
every token, and the cell of the user's tensors that it came from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class PackedLayout:
    """A packed batch of documents.

    Args:
        shape: leading shape of the user's tensors: `(batch, length)`, or `(total_tokens,)` for flat packed input.
        indices: `(total_tokens,)` int64, index of each token in the flattened input; None if every cell holds a token.
        document_ids: `(total_tokens,)` int64, ascending.
        offsets: `(total_tokens,)` int64, distance from the first token of the document. Holes in an attention mask
            count, so that a window spans the same columns as in the padded form.
        positions: `(total_tokens,)` int64, RoPE positions.
        cu_seqlens: `(documents + 1,)` int32, document boundaries in the packed row.
        max_length: upper bound of the longest document's length in tokens.
        has_holes: whether an attention mask has zeros between the tokens of a document.
        lengths: document lengths on the host, or None if they have not been read from the device yet.
        dense: whether cells without a token stay in the row, as document −1, because shapes in a graph must not depend
            on the mask. `cu_seqlens` then counts them, and `has_holes` means that rows are not single documents.
    """

    shape: tuple[int, ...]
    indices: torch.Tensor | None
    document_ids: torch.Tensor
    offsets: torch.Tensor
    positions: torch.Tensor
    cu_seqlens: torch.Tensor
    max_length: int
    has_holes: bool = False
    lengths: tuple[int, ...] | None = None
    dense: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """`(batch, length)` of the user's tensors; flat packed input is one row."""
        return _grid(self.shape)

    def unpad(self, tensor: torch.Tensor) -> torch.Tensor:
        """`(*shape, …)` → `(total_tokens, …)`."""
        flat = tensor.flatten(0, len(self.shape) - 1)
        return flat if self.indices is None else flat[self.indices]

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """`(total_tokens, …)` → `(*shape, …)`, with zeros in cells without a token."""
        if self.indices is not None:
            batch, length = self.grid
            cells = tensor.new_zeros(batch * length, *tensor.shape[1:])
            tensor = cells.index_copy(0, self.indices, tensor)
        elif self.dense and self.has_holes:
            is_padding = (self.document_ids < 0).view(-1, *(1,) * (tensor.dim() - 1))
            tensor = tensor.masked_fill(is_padding, 0)
        return tensor.unflatten(0, self.shape) if len(self.shape) > 1 else tensor

    def to(self, device: Any, **kwargs: Any) -> PackedLayout:
        """Move the tensors; accelerate calls this for models that are spread over devices."""
        moved: dict[str, Any] = {
            field.name: value.to(device, **kwargs)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)

    def with_lengths(self) -> PackedLayout:
        """Return the layout with `lengths` on the host unless it is dense; may wait for the device."""
        if self.lengths is not None or self.dense:
            return self
        lengths = tuple(self.cu_seqlens.diff().tolist())
        return dataclasses.replace(self, lengths=lengths, max_length=max(lengths, default=0))


def is_in_graph() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records the computation for other inputs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_program() -> bool:
    """Whether the graph is the whole program: torch.export and torch.jit.trace have no code around it."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def build_layout(
    shape: tuple[int, ...],
    device: torch.device,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
    seq_idx: torch.Tensor | None = None,
    dense: bool = False,
) -> PackedLayout:
    """Build the layout of a batch from the model's inputs.

    Args:
        shape: leading shape of the ids or embeddings, `(batch, length)` or `(total_tokens,)`.
        device: device of the ids or embeddings.
        attention_mask: `(batch, length)`, nonzero at tokens; padding on either side, or zeros between tokens.
        position_ids: `(batch, length)`, `(1, length)` or `(length,)` RoPE positions. A position that is not greater
            than the previous one starts a document, as in transformers' flattened batches.
        cu_seqlens: `(documents + 1,)` document boundaries in the flattened input.
        max_seqlen: length of the longest document in tokens, if known; avoids waiting for the device.
        seq_idx: document numbers with the shape of `position_ids`; another number starts a document.
        dense: whether to keep cells without a token, so that no shape depends on data.

    Raises:
        ValueError: the mask has another shape, the boundaries do not span the input, or both are given.
    """
    if len(shape) not in (1, 2):
        raise ValueError(f"input must have shape (batch, length) or (total_tokens,), not {tuple(shape)}.")
    position_ids, seq_idx = (
        None if tensor is None else tensor.to(device).expand(shape).flatten() for tensor in (position_ids, seq_idx)
    )
    mask = None if attention_mask is None else _token_mask(attention_mask, shape, device)
    if cu_seqlens is not None:
        if mask is not None and (dense or not bool(mask.all())):
            raise ValueError("pass either cu_seqlens or an attention_mask with padding, not both.")
        return _from_boundaries(shape, device, cu_seqlens, max_seqlen, position_ids, dense)
    if dense:
        return _dense_rows(shape, device, mask, position_ids, seq_idx)
    if mask is not None and not bool(mask.all()):
        return _from_mask(mask, position_ids, seq_idx)
    if position_ids is not None or seq_idx is not None:
        batch, length = _grid(shape)
        cells = torch.arange(batch * length, device=device)
        rows, columns = (cells // length, cells % length) if length else (cells, cells)
        return _from_starts(tuple(shape), rows, columns, _starts(rows, position_ids, seq_idx), position_ids)
    return _full_rows(shape, device)


def _token_mask(attention_mask: Any, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Check the attention mask and convert it to bool."""
    if not isinstance(attention_mask, torch.Tensor) or tuple(attention_mask.shape) != tuple(shape):
        actual = tuple(attention_mask.shape) if isinstance(attention_mask, torch.Tensor) else type(attention_mask)
        raise ValueError(
            f"attention_mask must have the input's shape {tuple(shape)}, not {actual}; "
            "masks between pairs of tokens are not supported: pass documents with cu_seqlens."
        )
    return attention_mask.to(device) != 0


def _starts(rows: torch.Tensor, positions: torch.Tensor | None, seq_idx: torch.Tensor | None) -> torch.Tensor:
    """Where documents begin, `(tokens,)` bool: at the first token of each row, and where positions restart."""
    starts = torch.ones_like(rows, dtype=torch.bool)
    starts[1:] = rows[1:] != rows[:-1]
    if positions is not None:
        starts[1:] |= positions[1:] <= positions[:-1]
    if seq_idx is not None:
        starts[1:] |= seq_idx[1:] != seq_idx[:-1]
    return starts


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _full_rows(shape: tuple[int, ...], device: torch.device) -> PackedLayout:
    """Every row is one document of the full length. Nothing depends on data, so nothing waits for the device."""
    batch, length = _grid(shape)
    columns = torch.arange(length, device=device).repeat(batch)
    return PackedLayout(
        shape=tuple(shape),
        indices=None,
        document_ids=torch.arange(batch, device=device).repeat_interleave(length, output_size=batch * length),
        offsets=columns,
        positions=columns,
        cu_seqlens=torch.arange(batch + 1, device=device, dtype=torch.int32) * length,
        max_length=length,
        lengths=(length,) * batch,
    )


def _dense_rows(
    shape: tuple[int, ...],
    device: torch.device,
    mask: torch.Tensor | None,
    positions: torch.Tensor | None,
    seq_idx: torch.Tensor | None,
) -> PackedLayout:
    """Every cell stays in the row: the graph that is recorded is right for other masks, positions and lengths."""
    batch, length = _grid(shape)
    rows = torch.arange(batch, device=device)[:, None].expand(batch, length).flatten()
    columns = torch.arange(length, device=device).expand(batch, length).flatten()
    document_ids = rows
    mask = None if mask is None else mask.flatten()
    if positions is not None or seq_idx is not None:
        # Each cell is compared with the last token before it, which may be before a hole.
        last = torch.arange(batch * length, device=device)
        last = last if mask is None else last.where(mask, 0).cummax(0).values
        others = (None if tensor is None else tensor[last] for tensor in (positions, seq_idx))
        starts = _starts(rows[last], *others)
        document_ids = (starts if mask is None else starts & mask).cumsum(0)
    if mask is not None:
        document_ids = document_ids.masked_fill(~mask, -1)
    return PackedLayout(
        shape=tuple(shape),
        indices=None,
        document_ids=document_ids,
        offsets=columns,
        positions=columns if positions is None else positions,
        cu_seqlens=torch.arange(batch + 1, device=device, dtype=torch.int32) * length,
        max_length=length,
        has_holes=document_ids is not rows,
        dense=True,
    )


def _from_boundaries(
    shape: tuple[int, ...],
    device: torch.device,
    cu_seqlens: torch.Tensor,
    max_seqlen: int | None,
    positions: torch.Tensor | None,
    dense: bool,
) -> PackedLayout:
    batch, length = _grid(shape)
    total = batch * length
    lengths = None
    # On the host the check costs nothing; on a device it would wait.
    if cu_seqlens.device.type == "cpu" and not dense:
        lengths = tuple(cu_seqlens.diff().tolist())
        valid = cu_seqlens.dim() == 1 and len(cu_seqlens) > 0 and min(lengths, default=0) >= 0
        if not valid or int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != total:
            raise ValueError(
                f"cu_seqlens must rise from 0 to the number of tokens, {total}; got {cu_seqlens.tolist()[:8]}"
                f"{' …' if cu_seqlens.numel() > 8 else ''}."
            )
        max_seqlen = max(lengths, default=0)
    elif cu_seqlens.is_cuda:
        # Kernels leave uncovered rows uninitialised. torch has no public device-side assertion.
        torch._assert_async(
            are_valid_boundaries(cu_seqlens, total, max_seqlen),
            "cu_seqlens must rise from 0 to the number of tokens, by max_seqlen at most.",
        )
    cu_seqlens = cu_seqlens.to(device=device, dtype=torch.int32)
    row = torch.arange(total, device=device)
    document_ids = torch.bucketize(row, cu_seqlens[1:].long(), right=True)
    offsets = row - cu_seqlens.long()[document_ids]
    return PackedLayout(
        shape=tuple(shape),
        indices=None,
        document_ids=document_ids,
        offsets=offsets,
        positions=offsets if positions is None else positions,
        cu_seqlens=cu_seqlens,
        max_length=total if max_seqlen is None or dense else int(max_seqlen),
        has_holes=dense,
        lengths=lengths,
        dense=dense,
    )


def are_valid_boundaries(cu_seqlens: torch.Tensor, total: int, max_seqlen: int | None) -> torch.Tensor:
    """Whether boundaries rise from 0 to `total` by at most `max_seqlen`: a bool scalar on the same device."""
    lengths = cu_seqlens.diff()
    is_valid = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == total) & (lengths >= 0).all()
    return is_valid if max_seqlen is None else is_valid & (lengths <= max_seqlen).all()


def _from_mask(mask: torch.Tensor, positions: torch.Tensor | None, seq_idx: torch.Tensor | None) -> PackedLayout:
    """One document per row of the mask, unless positions restart within a row; rows may be empty."""
    grid = mask if mask.dim() == 2 else mask.unsqueeze(0)
    indices = grid.flatten().nonzero().squeeze(1)
    rows, columns = indices // grid.shape[1], indices % grid.shape[1]
    positions, seq_idx = (None if tensor is None else tensor[indices] for tensor in (positions, seq_idx))
    if positions is not None or seq_idx is not None:
        starts = _starts(rows, positions, seq_idx)
        if bool((starts[1:] & (rows[1:] == rows[:-1])).any()):
            layout = _from_starts(tuple(mask.shape), rows, columns, starts, positions)
            return dataclasses.replace(layout, indices=indices)
    counts = grid.sum(1)
    first = grid.int().argmax(1)
    last = grid.shape[1] - 1 - grid.flip(1).int().argmax(1)
    lengths, extents = torch.stack([counts, (last - first + 1) * (counts > 0)]).tolist()
    return PackedLayout(
        shape=tuple(mask.shape),
        indices=indices,
        document_ids=rows,
        offsets=columns - first[rows],
        # Columns, as in the padded form: RoPE is relative, but its rounding is not.
        positions=columns if positions is None else positions,
        cu_seqlens=_boundaries(counts),
        max_length=max(lengths, default=0),
        has_holes=lengths != extents,
        lengths=tuple(lengths),
    )


def _from_starts(
    shape: tuple[int, ...],
    rows: torch.Tensor,
    columns: torch.Tensor,
    starts: torch.Tensor,
    positions: torch.Tensor | None,
) -> PackedLayout:
    """Documents begin where `starts` is True."""
    document_ids = starts.cumsum(0) - 1
    first_tokens = starts.nonzero().squeeze(1)
    offsets = columns - columns[first_tokens][document_ids]
    counts = torch.bincount(document_ids, minlength=len(first_tokens))
    lengths = tuple(counts.tolist())
    return PackedLayout(
        shape=shape,
        indices=None,
        document_ids=document_ids,
        offsets=offsets,
        positions=offsets if positions is None else positions,
        cu_seqlens=_boundaries(counts),
        max_length=max(lengths, default=0),
        has_holes=bool((offsets[1:] - offsets[:-1] > 1).any()),
        lengths=lengths,
    )


def _boundaries(counts: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
