"""What a pickle would cost its reader, found without reading it."""

import os
import pickletools
from typing import IO

from .errors import CheckpointError

__all__ = ["check_pickle"]

_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
# Take a container, fill it, and leave it.
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_MARK = 0


def check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle by which few bytes would take memory or time without end.

    One is a high number of an object, since an unpickler makes room for all numbers up to the
    highest at once. The other is a tuple that holds another one twice, that one a third twice, and
    so on: as a key it is hashed, which goes through all of them.

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
    # For each object the values that are in it, as far as it can be hashed.
    stack: list[int] = []
    memo: dict[int, int] = {}
    handled = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _GETS:
            stack.append(memo[int(argument or 0)])
        elif opcode.name in _PUTS:
            number = len(memo) if opcode.name == "MEMOIZE" else int(argument or 0)
            if number > size:
                raise CheckpointError(f"damaged: holds an object with the number {number}")
            memo[number] = stack[-1]
        elif opcode.name == "MARK":
            stack.append(_MARK)
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(opcode, stack)
            if opcode.name in _TUPLES:
                stack.append(1 + sum(taken))
            elif opcode.name in _FILLS:
                stack.append(taken[0])
                handled += sum(taken[1:])
            else:
                stack += [1] * len(opcode.stack_after)
                handled += sum(taken)
        if handled > most or (stack and stack[-1] > most):
            raise CheckpointError(f"{size} bytes of it stand for more than {most} values")


def _take(opcode: pickletools.OpcodeInfo, stack: list[int]) -> list[int]:
    """Take from the stack what an instruction takes."""
    before = opcode.stack_before
    count = len(before)
    taken: list[int] = []
    if pickletools.markobject in before:
        mark = len(stack) - 1 - stack[::-1].index(_MARK)
        taken = stack[mark + 1 :]
        del stack[mark:]
        count = before.index(pickletools.markobject)
    elif opcode.name != "POP" and _MARK in stack[len(stack) - count :]:
        raise ValueError(f"{opcode.name} takes a mark")
    if count > len(stack):
        raise ValueError(f"{opcode.name} takes more than there is")
    if count:
        taken = stack[-count:] + taken
        del stack[-count:]
    return taken
