//! Requests merged as bytes, with no decode.
