//! System calls on memory.
