//! What the documentation of [`Deadline`] says, held to it.
