//! `--filter KEY=VALUE`: values of one key are alternatives, keys narrow each other down.

use std::collections::BTreeMap;

/// What a list is narrowed down by.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Filters {
    /// Only those with KEY=VALUE; several of a key are alternatives
    #[arg(long = "filter", short = 'f', value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

impl Filters {
    /// The same where `-f` is another flag.
    pub(super) fn of(filters: &[String]) -> Self {
        Self { filters: filters.to_vec() }
    }

    /// The filters by their keys, of which only `known` ones are taken.
    ///
    /// # Errors
    /// One that is unknown, or no `KEY=VALUE`.
    pub(super) fn by_key(&self, known: &[&'static str]) -> Result<BTreeMap<&'static str, Vec<String>>, String> {
        let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for filter in &self.filters {
            let (key, value) = filter.split_once('=').ok_or_else(|| format!("--filter {filter:?} is not KEY=VALUE"))?;
            let key = known
                .iter()
                .find(|k| **k == key)
                .ok_or_else(|| format!("--filter {filter:?}: {key} is not known here; known: {}", known.join(", ")))?;
            all.entry(*key).or_default().push(value.to_owned());
        }
        Ok(all)
    }
}

/// Whether labels have `KEY` or `KEY=VALUE`.
pub(super) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::Filters;

    #[test]
    fn filters_are_grouped_and_unknown_ones_refused() {
        let filters = |all: &[&str]| Filters { filters: all.iter().map(|f| (*f).to_owned()).collect() };
        let found = filters(&["name=a", "name=b", "status=exited"]).by_key(&["name", "status"]).expect("filters");
        assert_eq!((found["name"].as_slice(), found["status"].len()), (["a".to_owned(), "b".to_owned()].as_slice(), 1));
        assert!(filters(&["nmae=a"]).by_key(&["name"]).is_err_and(|e| e.contains("known: name")));
        assert!(filters(&["name"]).by_key(&["name"]).is_err());
    }
}
