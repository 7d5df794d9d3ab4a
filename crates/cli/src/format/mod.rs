//! Turning answers into text: tables, templates, sizes and ages.

pub mod human;
pub mod natural;
pub mod rows;
pub mod table;
pub mod template;
pub mod typed;
