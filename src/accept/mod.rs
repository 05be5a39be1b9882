//! A call arrives.
