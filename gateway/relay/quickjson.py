"""The little JSON that is needed before the kernel runs.

Importing `json` costs about 10 ms (it brings `re` and `enum`), on the way to every kernel's start, so the two
halves of its C accelerator are used as they are. An interpreter without the accelerator uses `json`.
"""

try:
    import _json as _accelerator
except ImportError:
    _accelerator = None  # type: ignore[assignment]


class _Context:
    """What the scanner wants to know: the settings of a plain `json.loads`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 (the scanner asks for the attribute and clears it itself)


def loads(data: bytes) -> object:
    """The value of a JSON text without surrounding blanks; raises `ValueError` where there is none."""
    if _accelerator is None:
        import json

        return json.loads(data)
    text = data.decode()
    try:
        value, end = _accelerator.make_scanner(_Context())(text, 0)  # type: ignore[arg-type]
    except (StopIteration, RecursionError) as error:
        raise ValueError("not a JSON text") from error
    if end != len(text):
        raise ValueError("a JSON text with something behind it")
    return value


def dumps(members: dict[str, str | int]) -> str:
    """A flat JSON object of texts and numbers."""
    if _accelerator is None:
        import json

        return json.dumps(members)
    quote = _accelerator.encode_basestring_ascii
    pairs = (
        f"{quote(name)}: {value if isinstance(value, int) else quote(value)}"
        for name, value in members.items()
    )
    return "{" + ", ".join(pairs) + "}"
