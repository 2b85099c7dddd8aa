//! Moments as the audit log writes them.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// UTC, with milliseconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(time)
        .format(FORMAT)
        .expect("a date and time has every component of the format")
}
