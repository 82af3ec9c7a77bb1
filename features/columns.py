"""Names of the columns that encoded data carries beside the features; raw data may not use them."""

ROW = "_row"
"""Position in the event log, over all its files, from 0."""
SPLIT = "_split"
"""'train', 'val', 'test', or null for an event that belongs to none."""
USER = "_user"
"""Row of the user's history."""
POSITION = "_position"
"""Number of the user's events before this one."""
WEIGHT = "_weight"
"""Weight of the example in the loss."""
LABEL_PREFIX = "_label."
"""Followed by the label's name: 0.0 or 1.0, null where the label's `where` does not hold."""
ENTITY_PREFIX = "_entity."
"""Followed by user, item or time: the raw column of that role."""
KEEP_PREFIX = "_keep."
"""Followed by the name of a sequence with a `where`: whether it holds for the event."""

RESERVED_PREFIX = "_"
SPLITS = ("train", "val", "test")


def label_column(name: str) -> str:
    """The encoded column of a label."""
    return LABEL_PREFIX + name


def entity_column(role: str) -> str:
    """The raw column of user, item or time in encoded data."""
    return ENTITY_PREFIX + role


def keep_column(sequence: str) -> str:
    """Whether an event may enter the sequence; only where the sequence has a `where`."""
    return KEEP_PREFIX + sequence


def sequence_column(sequence: str, of: str) -> str:
    """The key of one of a sequence's aligned columns."""
    return f"{sequence}.{of}"


def is_of_sequence(key: str) -> bool:
    """Whether a key is one of `sequence_column`; no feature's name has a dot."""
    return "." in key


def time_column(sequence: str) -> str:
    """The seconds of a sequence's events; no feature's name has an @."""
    return sequence_column(sequence, "@time")


def count_column(key: str) -> str:
    """How many ids each event has in a sequence's column, where it may have other than one.

    Args:
        key: That of the column, of `sequence_column`.
    """
    return f"{key}.@count"


TAKEN_NAMES = frozenset(
    {
        "T_destination",
        "add_module",
        "apply",
        "bfloat16",
        "buffers",
        "call_super_init",
        "children",
        "clear",
        "compile",
        "copy",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "fromkeys",
        "get",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "half",
        "ipu",
        "items",
        "keys",
        "load_state_dict",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "pop",
        "popitem",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "set_extra_state",
        "set_submodule",
        "setdefault",
        "share_memory",
        "state_dict",
        "to",
        "to_empty",
        "train",
        "training",
        "type",
        "update",
        "values",
        "xpu",
        "zero_grad",
    }
)
"""Names that torch's containers of tables and parameters need for themselves."""
