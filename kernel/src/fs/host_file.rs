//! Open files that stand for a descriptor of the host: the standard streams that the sandbox was given.
