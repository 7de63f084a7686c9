//! Failures of a whole request: a text as `code`, and no `data`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_core::{FaultKind, Field};
use serde::Serialize;

use crate::http::{AuditMessage, InternalFallback, ParameterError};

/// What is said when nothing more can be.
pub(super) const UNKNOWN: &str = "未知异常,请联系管理员";

/// A code: text, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Code {
    Text(&'static str),
    Number(u16),
}

/// An error as this dialect has it.
#[derive(Debug)]
pub(crate) struct Error {
    status: StatusCode,
    code: Code,
    message: String,
    /// For the operations that tell one.
    error: Option<String>,
}

#[derive(Serialize)]
struct Failure {
    msg: String,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Error {
    fn coded(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, code: Code::Text(code), message: message.into(), error: None }
    }

    pub(super) fn unauthorized() -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::coded("TY0001", "未登录或token无效") }
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::coded("TY0002", format!("缺少参数:{name}!"))
    }

    pub(super) fn invalid(name: &str) -> Self {
        Self::coded("TY0003", format!("参数错误:{name}!"))
    }

    /// The same with what it should be, and what it is.
    pub(super) fn out_of_bounds(name: &str, what: &str) -> Self {
        let rule = rule(name);
        let rule = if rule.is_empty() { String::new() } else { format!("应为{rule}") };
        Self::coded("TY0003", format!("参数错误:{name}!{rule}({what})"))
    }

    /// Something of the request is longer than it may be.
    pub(super) fn too_long() -> Self {
        Self::longer_than(crate::http::LONGEST_BODY)
    }

    fn longer_than(limit: usize) -> Self {
        Self::coded("TY0004", format!("请求过长,最多{limit}字节!"))
    }

    pub(super) fn no_container(name: &str) -> Self {
        Self::coded("TY0010", format!("容器{name}不存在!"))
    }

    pub(super) fn no_uuid() -> Self {
        Self::coded("TY0015", "uuid不存在!")
    }

    pub(super) fn no_image(name: &str) -> Self {
        Self::coded("TY0020", format!("镜像{name}不存在!"))
    }

    pub(super) fn operator() -> Self {
        Self::coded("TY0032", "运营商错误!正确为移动、联通和电信!")
    }

    pub(super) fn no_job(id: &str) -> Self {
        Self::coded("TY0040", format!("任务{id}不存在!"))
    }

    /// Nothing is to be had at an address that was given out.
    pub(super) fn gone(message: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, ..Self::failed(message) }
    }

    /// It can't be done; `code` is 500.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, code: Code::Number(500), message: message.into(), error: None }
    }

    /// As the operations on files tell what can't be done: a number, the same words each time, and what it is in `error`.
    pub(super) fn of_files(self) -> Self {
        let said = self.message;
        Self { status: self.status, ..Self::failed(UNKNOWN).with_error(said) }
    }

    /// With the field `error` that the operations on files tell.
    pub(super) fn with_error(self, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..self }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let said = AuditMessage(match self.code {
            Code::Text(code) => format!("{code}: {}", self.message),
            Code::Number(code) => format!("{code}: {}", self.message),
        });
        let body = Json(Failure { msg: self.message, code: self.code, error: self.error });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(said);
        response
    }
}

/// What the document calls a value.
fn name_of(field: Field) -> &'static str {
    match field {
        Field::DeploymentName => "deploymentname",
        Field::DeploymentHost => "uuid",
        Field::Version => "imageversion",
        Field::CpuRequest => "requestscpu",
        Field::CpuLimit => "limitscpu",
        Field::MemoryRequest => "requestsmemory",
        Field::MemoryLimit => "limitsmemory",
        Field::Path => "filepath",
        Field::Range => "endDate",
        other => other.as_str(),
    }
}

/// What a parameter has to be.
fn rule(name: &str) -> &'static str {
    match name {
        "requestscpu" => "0到4096核,不大于limitscpu",
        "limitscpu" => "0(不限)到4096核",
        "requestsmemory" => "0到1073741824MB,不大于limitsmemory",
        "limitsmemory" => "0(不限)或4到1073741824MB",
        "deploymentname" | "name" => "1到100个字母、数字、_、.、-,以字母或数字开头",
        "image" | "imageversion" => "正确的镜像名和版本",
        "env" => "key和value的列表,key不能为空或含=,总共不超过128KiB",
        "volumes" | "mounts" => "hostPath和mountPath的列表,均为绝对路径,mountPath不能重复",
        "percent" => "1到100的整数",
        "startDate" | "endDate" => "yyyy-MM-dd HH:mm:ss,endDate不早于startDate,最多31天",
        "body" => "JSON数组,1到1000项,最多1MiB",
        "filepath" => "绝对路径",
        _ => "",
    }
}

/// A failure in this platform's words; what berth itself says of it, with the value, stands behind in brackets.
pub(super) fn said(error: &berth_core::Error) -> String {
    match error.kind() {
        FaultKind::Invalid => match error {
            berth_core::Error::Start { text, .. } => format!("启动失败:{text}!"),
            berth_core::Error::Invalid { field: Field::ImageUrl, message } => format!("镜像下载失败:{message}!"),
            berth_core::Error::Invalid { field, message } => Error::out_of_bounds(name_of(*field), message).message,
            _ => "参数错误!".to_owned(),
        },
        FaultKind::NotFound => "不存在!".to_owned(),
        FaultKind::Duplicate => format!("名称已存在!({})", error.public()),
        FaultKind::WrongState => format!("当前状态不允许该操作!({})", error.public()),
        FaultKind::InUse => format!("正在使用,不能操作!({})", error.public()),
        FaultKind::TooOften => "请求过多,请稍后再试!".into(),
        FaultKind::NoRoom => match error {
            berth_core::Error::Insufficient { resource, requested, left } => {
                format!("资源不足,请稍后再试!(Insufficient {resource}: {requested} requested, {left} left)")
            }
            _ => format!("资源不足,请稍后再试!({})", error.public()),
        },
        FaultKind::Quota => format!("超出配额!({})", error.public()),
        // The right to the host's network is told in the words that its documentation has.
        FaultKind::Forbidden if error.public().starts_with("host network") => error.public(),
        FaultKind::Forbidden => format!("没有权限!({})", error.public()),
        FaultKind::Timeout => format!("操作超时!({})", error.public()),
        FaultKind::Upstream => format!("镜像仓库异常!({})", error.public()),
        FaultKind::Unavailable => {
            tracing::error!(error = error.chain(), "tingyu: the host failed");
            "主机暂时不可用,请稍后再试!".to_owned()
        }
        FaultKind::Bug => {
            tracing::error!(error = error.chain(), "tingyu: internal error");
            UNKNOWN.to_owned()
        }
    }
}

impl From<berth_core::IdentityError> for Error {
    fn from(error: berth_core::IdentityError) -> Self {
        berth_core::Error::from(error).into()
    }
}

impl From<berth_core::Error> for Error {
    fn from(error: berth_core::Error) -> Self {
        match &error {
            berth_core::Error::Invalid { field: Field::ImageUrl, .. } => Self::failed(said(&error)),
            berth_core::Error::Invalid { field, message } => Self::out_of_bounds(name_of(*field), message),
            berth_core::Error::NotFound { what: "image", name } => Self::no_image(name),
            berth_core::Error::NotFound { what: "host", .. } => Self::no_uuid(),
            berth_core::Error::NotFound { what: "command", name } => Self::no_job(name),
            berth_core::Error::NotFound { name, .. } => Self::no_container(name),
            _ => Self::failed(said(&error)),
        }
    }
}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        match error {
            ParameterError::Missing(name) => Self::missing(name),
            ParameterError::Wrong { name, found, .. } => {
                let found: String = found.chars().take(100).collect();
                Self::out_of_bounds(name, &format!("收到:{found}"))
            }
            ParameterError::Body(why) => Self::out_of_bounds("body", &why),
            ParameterError::TooLong => Self::too_long(),
            ParameterError::Late => Self::failed("请求超时!"),
        }
    }
}

pub(crate) async fn no_such_path() -> Error {
    Error::coded("TY0004", "接口不存在!")
}

pub(super) async fn wrong_method() -> Error {
    Error::coded("TY0005", "请求方法错误!")
}

pub(crate) fn broken(what: InternalFallback) -> Response {
    match what {
        InternalFallback::Panic => Error::failed(UNKNOWN),
        InternalFallback::Overload => Error::failed("请求过多,请稍后再试!"),
        InternalFallback::LongHead(limit) => Error::longer_than(limit),
    }
    .into_response()
}
