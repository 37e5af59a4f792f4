//! Examples: see the folders beside this one.
