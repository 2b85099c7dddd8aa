//! A device as the admin listener shows it.

use serde::{Deserialize, Serialize};

use crate::table::DeviceEntry;

/// A device of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The name.
    pub device: String,
    /// `managed` or `blocked`.
    pub state: String,
    /// Who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Device {
    /// A device that the registry says this about.
    #[must_use]
    pub fn new(name: &str, entry: DeviceEntry<'_>) -> Self {
        Self {
            device: name.to_owned(),
            state: entry.state.word().to_owned(),
            user: entry.user.map(str::to_owned),
        }
    }
}
