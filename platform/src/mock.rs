//! A platform without guest code, for unit tests.
