//! How a log is kept.

/// How a record is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line of JSON.
    #[default]
    Json,
    /// A protocol buffer between its lengths.
    Local,
}

/// What a writer must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub format: Format,
    /// Bytes of a file before the next one is begun; absent, there is one file.
    pub max_size: Option<u64>,
    pub max_files: u32,
    /// Older files are compressed.
    pub compress: bool,
    /// Said with every record, where the format has a place for it.
    pub attributes: Vec<(String, String)>,
}
