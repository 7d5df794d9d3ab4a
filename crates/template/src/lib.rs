//! Docker's templates: its functions beside Go's, and Go's words for mistakes. Pure; it knows nothing
//! of what is shown.

pub mod functions;
pub mod shape;
