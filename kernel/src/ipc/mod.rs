//! Inter-process communication: futexes, pipes, event files, System V and POSIX message queues.
