//! Every bound and pool size as a named constant with its reason.
