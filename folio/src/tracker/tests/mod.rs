//! The tree as it is read, where it was grown by what a kernel grows it by.

mod counts;
mod gaps;
mod pages;
mod tree;
mod walk;
