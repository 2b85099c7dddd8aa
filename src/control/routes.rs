//! The admin API as one table: its paths, what each shows, and what each changes.
//!
//! Whether a path is there, its methods, the `Allow` of a 405, the list in a 404, whether a request
//! needs permission and whether it may be asked for as a trial follow from [`ROUTES`]. What is
//! shown needs no permission, each change does.

use hyper::Method;

use super::page::{Asset, asset};

/// How many parts of a path may be names.
const NAMES: usize = 2;

/// A page that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The page for a browser, or a part of it.
    Asset(&'static Asset),
    Health,
    Readiness,
    Metrics,
    Histograms,
    Tunnels,
    Tunnel,
    Devices,
    Device,
    Servers,
    Server,
    Crls,
    CrlsOfSource,
    Profiles,
    Profile,
    Certificates,
    Certificate,
    CertificateExport,
    /// Who may change something.
    Permission,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    CloseTunnels,
    CloseTunnel,
    ImportDevices,
    SetDevice,
    RemoveDevice,
    SetServer,
    ForgetCrl,
    Reload,
    PutProfile,
    DeleteProfile,
    AssignProfile,
    UnassignProfile,
    RollBackProfile,
    ImportCertificate,
    DeleteCertificate,
    /// Changes nothing: whether the one who asks may change something.
    TryPermission,
}

impl Change {
    /// Returns whether it can be asked for without being made (`dry_run`).
    pub fn takes_dry_run(self) -> bool {
        matches!(self, Self::PutProfile | Self::ImportCertificate)
    }

    /// Returns whether nothing is changed: it is asked what a change would do, or whether one may
    /// be made.
    pub fn is_question(self, dry_run: bool) -> bool {
        self == Self::TryPermission || (dry_run && self.takes_dry_run())
    }
}

/// Action of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Show(Show),
    Change(Change),
}

/// A path, and what can be asked of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The path as a template: `{name}` is one part of it, and `{+name}` all that is left, as in
    /// RFC 6570.
    pub path: &'static str,
    show: Option<Show>,
    changes: &'static [(&'static str, Change)],
}

/// Every path but those of [`Asset`]s.
pub(super) const ROUTES: &[Route] = &[
    route("/healthz", Some(Show::Health), &[]),
    route("/readyz", Some(Show::Readiness), &[]),
    route("/metrics", Some(Show::Metrics), &[]),
    route("/histograms", Some(Show::Histograms), &[]),
    route(
        "/tunnels",
        Some(Show::Tunnels),
        &[("DELETE", Change::CloseTunnels)],
    ),
    route(
        "/tunnels/{id}",
        Some(Show::Tunnel),
        &[("DELETE", Change::CloseTunnel)],
    ),
    route(
        "/devices",
        Some(Show::Devices),
        &[("POST", Change::ImportDevices)],
    ),
    route(
        "/devices/{+device}",
        Some(Show::Device),
        &[("PUT", Change::SetDevice), ("DELETE", Change::RemoveDevice)],
    ),
    route("/servers", Some(Show::Servers), &[]),
    route(
        "/servers/{service}/{server}",
        Some(Show::Server),
        &[("PUT", Change::SetServer)],
    ),
    route("/crls", Some(Show::Crls), &[]),
    route(
        "/crls/{+source}",
        Some(Show::CrlsOfSource),
        &[("DELETE", Change::ForgetCrl)],
    ),
    route("/profiles", Some(Show::Profiles), &[]),
    route(
        "/profiles/{name}",
        Some(Show::Profile),
        &[
            ("PUT", Change::PutProfile),
            ("DELETE", Change::DeleteProfile),
        ],
    ),
    route(
        "/profiles/{name}/assign",
        None,
        &[("POST", Change::AssignProfile)],
    ),
    route(
        "/profiles/{name}/unassign",
        None,
        &[("POST", Change::UnassignProfile)],
    ),
    route(
        "/profiles/{name}/rollback",
        None,
        &[("POST", Change::RollBackProfile)],
    ),
    route("/certificates", Some(Show::Certificates), &[]),
    route(
        "/certificates/{kind}/{name}",
        Some(Show::Certificate),
        &[
            ("PUT", Change::ImportCertificate),
            ("DELETE", Change::DeleteCertificate),
        ],
    ),
    route(
        "/certificates/{kind}/{name}/export",
        Some(Show::CertificateExport),
        &[],
    ),
    route(
        "/permission",
        Some(Show::Permission),
        &[("POST", Change::TryPermission)],
    ),
    route("/reload", None, &[("POST", Change::Reload)]),
];

const fn route(
    path: &'static str,
    show: Option<Show>,
    changes: &'static [(&'static str, Change)],
) -> Route {
    Route {
        path,
        show,
        changes,
    }
}

/// The route of a path, and the names in the path: percent-encoded still, and empty where the route
/// has fewer.
pub(super) fn find(path: &str) -> Option<(Route, [&str; NAMES])> {
    if let Some(asset) = asset(path) {
        return Some((
            route(asset.path(), Some(Show::Asset(asset)), &[]),
            [""; NAMES],
        ));
    }
    ROUTES
        .iter()
        .find_map(|route| Some((*route, names(route.path, path)?)))
}

/// The names in a path, where it is one of the template's.
fn names<'p>(template: &str, path: &'p str) -> Option<[&'p str; NAMES]> {
    let mut names = [""; NAMES];
    let mut free = names.iter_mut();
    let mut rest = Some(path.strip_prefix('/')?);
    for part in template.split('/').skip(1) {
        let left = rest?;
        let (found, after) = match left.split_once('/') {
            Some((found, after)) if !part.starts_with("{+") => (found, Some(after)),
            _ => (left, None),
        };
        if part.starts_with('{') && !found.is_empty() {
            *free.next()? = found;
        } else if part != found {
            return None;
        }
        rest = after;
    }
    rest.is_none().then_some(names)
}

impl Route {
    /// Returns what a request with this method asks for; `None` where the method is not allowed.
    pub fn action(&self, method: &Method) -> Option<Action> {
        if [Method::GET, Method::HEAD].contains(method) {
            return self.show.map(Action::Show);
        }
        let mut changes = self.changes.iter();
        let found = changes.find(|(known, _)| method == known);
        found.map(|(_, change)| Action::Change(*change))
    }

    /// The methods, as `Allow` lists them (RFC 9110, section 10.2.1).
    pub fn allow(&self) -> String {
        let read = self.show.map_or(&[] as &[_], |_| &["GET", "HEAD"]);
        let changes = self.changes.iter().map(|(method, _)| method);
        let all: Vec<&str> = read.iter().chain(changes).copied().collect();
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_route_and_its_names() {
        for (path, template, expected) in [
            ("/tunnels", "/tunnels", ["", ""]),
            ("/tunnels/7", "/tunnels/{id}", ["7", ""]),
            (
                "/devices/urn:a/b%2F",
                "/devices/{+device}",
                ["urn:a/b%2F", ""],
            ),
            (
                "/servers/w%2Fe/a:1",
                "/servers/{service}/{server}",
                ["w%2Fe", "a:1"],
            ),
            ("/crls/http://a/b", "/crls/{+source}", ["http://a/b", ""]),
            ("/profiles/assign", "/profiles/{name}", ["assign", ""]),
            ("/profiles/a/assign", "/profiles/{name}/assign", ["a", ""]),
            (
                "/certificates/group/a/export",
                "/certificates/{kind}/{name}/export",
                ["group", "a"],
            ),
            ("/", "/", ["", ""]),
        ] {
            let (route, names) = find(path).unwrap();
            assert_eq!((route.path, names), (template, expected), "{path}");
        }
        for path in [
            "",
            "*",
            "//",
            "/tunnels/",
            "/tunnels/7/",
            "/tunnels/7/8",
            "/devices/",
            "/crls/",
            "/Tunnels",
            "/servers/a",
            "/servers//a",
            "/servers/a/b/c",
            "/profiles/",
            "/profiles/a/",
            "/profiles/a/paint",
            "/profiles/a/assign/b",
            "/certificates/group",
            "/certificates/group/a/key",
            "/reload/",
            "/page/",
            "/{name}",
            "tunnels",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
        for route in ROUTES {
            let routes = ROUTES
                .iter()
                .filter(|other| names(other.path, route.path).is_some());
            assert_eq!(routes.count(), 1, "{}", route.path);
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_allowed() {
        let action = |method: &str, path| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            find(path).unwrap().0.action(&method)
        };
        assert_eq!(
            action("HEAD", "/devices"),
            Some(Action::Show(Show::Devices))
        );
        let import = Some(Action::Change(Change::ImportDevices));
        assert_eq!(action("POST", "/devices"), import);
        for (method, path) in [
            ("PUT", "/devices"),
            ("post", "/devices"),
            ("GET", "/reload"),
            ("PURGE", "/devices"),
            ("POST", "/"),
            ("PUT", "/profiles/a/assign"),
            ("DELETE", "/certificates/group/a/export"),
        ] {
            assert_eq!(action(method, path), None, "{method} {path}");
        }
        assert_eq!(
            find("/devices/a").unwrap().0.allow(),
            "GET, HEAD, PUT, DELETE"
        );
        assert_eq!(find("/reload").unwrap().0.allow(), "POST");
    }

    #[test]
    fn a_trial_is_a_question_where_it_can_be_one() {
        let question = |change: Change, dry_run| change.is_question(dry_run);
        assert!(question(Change::TryPermission, false));
        assert!(question(Change::PutProfile, true) && !question(Change::PutProfile, false));
        assert!(!question(Change::DeleteProfile, true));
    }
}
