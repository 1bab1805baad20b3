//! One bounded HTTP request and what its answer must be: shared by the `http` check, expectations, the `http`
//! remedy's wait and `defib probe http`. A leaf: it knows no peers and no engine.

/// What to ask and what to expect.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// `http://` or `https://`.
    pub url: String,
    /// Statuses that pass; default 200 ..= 299.
    pub statuses: std::ops::RangeInclusive<u16>,
    /// Path of a field in the JSON body (`a.b.0.c`) that must be as `expect` says.
    pub json: Option<JsonCondition>,
    /// Names of components whose ill health alone does not fail the check. Where the body has an object or an
    /// array of components, only the others are looked at.
    pub ignore: Vec<String>,
    /// Bytes of the body that are read; a longer one is `unknown`. Default 64 KiB.
    pub body_limit: usize,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<crate::secret::Secret>,
}

/// A condition on one field of a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonCondition {
    /// Keys and indices, separated by dots.
    pub path: String,
    /// What the value must be.
    pub expect: Expect,
}

/// What a JSON value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Exactly this.
    Equals(serde_json::Value),
    /// A number below this.
    Below(f64),
    /// A number above this.
    Above(f64),
}
