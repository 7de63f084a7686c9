//! The shapes of the answers, as documented.

use serde::Serialize;

/// `{"code": 0, "result": …}`.
#[derive(Debug, Serialize)]
pub(super) struct Answer<T> {
    pub(super) code: u32,
    pub(super) result: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Built {
    pub(super) container_id: String,
    pub(super) port: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    /// 0 for success, 1 for failure.
    pub(super) option_result: u8,
}

#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub(super) count: i64,
}

/// Percent.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    pub(super) cpu: f64,
    pub(super) memory: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Nothing {}
