//! Guest code in host processes.
