"""What a pickle would cost its reader, found without reading it."""

import os
import pickletools
from typing import IO, Any

from ga_detectron2.errors import CheckpointError

__all__ = ["check_pickle"]

_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_CONTAINERS = ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET")
# Take an object, put something into it, and leave it.
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_MARK: list[Any] = []

_Node = list[Any]
"""An object that holds others: how many, and the nodes among them. A number or text is None."""


def check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle by which few bytes would take memory or time without end.

    One is a high number of an object, since an unpickler makes room for all numbers up to the
    highest at once. The other is a tuple or a list that holds another one twice, that one a third
    twice, and so on: to hash it as a key, or to write it into an error, is to go through all.

    Args:
        file: stands behind the pickle afterwards.

    Raises:
        CheckpointError: it is such a pickle.
        Exception: it is damaged.
    """
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    most = 1_000_000 + 100 * size
    if _count_values(_find_objects(file, size), most) > most:
        raise CheckpointError(f"{size} bytes of it stand for more than {most} values")


def _find_objects(file: IO[bytes], most: int) -> list[_Node]:
    """All objects that hold others, as they are in the end. No number may be above ``most``."""
    stack: list[_Node | None] = []
    memo: dict[int, _Node | None] = {}
    found: list[_Node] = []
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in _GETS:
            stack.append(memo[int(argument or 0)])
        elif name in _PUTS:
            number = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if number > most:
                raise CheckpointError(f"damaged: holds an object with the number {number}")
            memo[number] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        elif not opcode.stack_before:
            stack.append([0] if name in _CONTAINERS else None)
            if stack[-1] is not None:
                found.append(stack[-1])
        else:
            taken = _take(opcode, stack)
            if name in _FILLS:
                node = taken.pop(0)
                stack.append(node)
                if node is None:
                    continue
                node[0] += len(taken)
            elif opcode.stack_after:
                node = [len(taken)]
                stack.append(node)
                found.append(node)
            else:
                continue
            node += [value for value in taken if value is not None]
    return found


def _take(opcode: pickletools.OpcodeInfo, stack: list[_Node | None]) -> list[_Node | None]:
    """Take from the stack what an instruction takes."""
    before = opcode.stack_before
    count = len(before)
    taken: list[_Node | None] = []
    if pickletools.markobject in before:
        mark = len(stack) - 1
        while stack[mark] is not _MARK:
            mark -= 1
        taken = stack[mark + 1 :]
        del stack[mark:]
        count = before.index(pickletools.markobject)
    if count > len(stack) or (
        opcode.name != "POP" and any(x is _MARK for x in stack[len(stack) - count :])
    ):
        raise ValueError(f"{opcode.name} takes more than there is")
    if count:
        taken = stack[-count:] + taken
        del stack[-count:]
    return taken


def _count_values(nodes: list[_Node], most: int) -> int:
    """Values in all objects, each as often as it would be written; more than ``most`` is enough."""
    counts: dict[int, int] = {}
    total = 0
    for start in nodes:
        pending = [start]
        while pending:
            node = pending[-1]
            key = id(node)
            if counts.get(key, -1) >= 0:
                pending.pop()
                continue
            if key not in counts:
                counts[key] = -1  # It is being counted.
                waiting = [child for child in node[1:] if counts.get(id(child), -1) < 0]
                if any(id(child) in counts for child in waiting):
                    raise CheckpointError("holds a list or dictionary that holds itself")
                pending += waiting
                continue
            pending.pop()
            counts[key] = 1 + node[0] + sum(counts[id(child)] for child in node[1:])
            total += counts[key]
            if total > most:
                return total
    return total
