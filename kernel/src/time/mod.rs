//! Clocks, sleeps and timers.
