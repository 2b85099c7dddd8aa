//! Texts that many sessions of a core have in common, kept once.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use crate::limits::SHARED_WORDS;

/// The texts, at most [`SHARED_WORDS`]: names of issuers, and names (SNI) that clients ask for.
#[derive(Default)]
pub(crate) struct SharedWords(RefCell<HashSet<Arc<str>>>);

impl SharedWords {
    /// The text, shared with whoever has the same. Where there are too many, those that nobody has
    /// any more are forgotten, and a new one is not kept if that is not enough.
    pub fn share(&self, text: &str) -> Arc<str> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        if known.len() >= SHARED_WORDS {
            known.retain(|word| Arc::strong_count(word) > 1);
        }
        if known.len() < SHARED_WORDS {
            known.insert(new.clone());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_no_more_than_so_many() {
        let words = SharedWords::default();
        let one = words.share("CN=ca");
        assert!(Arc::ptr_eq(&one, &words.share("CN=ca")));
        let held: Vec<_> = (0..2 * SHARED_WORDS)
            .map(|at| words.share(&at.to_string()))
            .collect();
        assert_eq!(words.0.borrow().len(), SHARED_WORDS);
        assert!(Arc::ptr_eq(&one, &words.share("CN=ca")), "in use");
        drop(held);
        words.share("new");
        assert_eq!(words.0.borrow().len(), 2);
    }
}
