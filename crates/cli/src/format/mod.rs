//! Turning answers into text: tables, templates, sizes and ages.

pub mod functions;
pub mod human;
pub mod natural;
pub mod rows;
pub mod shape;
pub mod table;
pub mod template;
