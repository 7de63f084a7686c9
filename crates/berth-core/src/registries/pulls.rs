//! One pull of an image at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::reference::ImageReference;

/// Who fetches what.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<ImageReference, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl Pulls {
    pub(crate) fn turn(&self, image: &ImageReference) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = all.get(image).and_then(std::sync::Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        all.insert(image.clone(), Arc::downgrade(&turn));
        turn
    }
}
