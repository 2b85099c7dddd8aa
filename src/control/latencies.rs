//! The latency histograms on the admin listener, in each of their forms.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::pages::{Page, Pages, json_page, name_silent, page};
use super::query::{HistogramFormat, Query};
use crate::observe::{
    Stage, bucket_bounds, bucket_counts, percentile_points, percentile_text, summarize,
};

impl Pages {
    /// Every stage, or the one that is asked for.
    pub(super) async fn histograms(&self, query: &Query) -> Page {
        let answers = self.snapshots().await;
        let silent = answers.silent();
        let metrics = answers.merged();
        let stages = Stage::ALL
            .into_iter()
            .filter(|stage| query.stage.is_none_or(|wanted| wanted == *stage));
        let as_json = |what: &dyn Fn(Stage) -> Value| -> Map<String, Value> {
            let stages = stages.clone();
            stages
                .map(|stage| (stage.word().to_owned(), what(stage)))
                .collect()
        };
        let mut body = json!({"unit": "us", "silent_cores": silent});
        let mut page = match query.format.unwrap_or(HistogramFormat::Json) {
            HistogramFormat::Hgrm => {
                let text = stages.map(|stage| {
                    // A line that starts with # is a comment to the tools that read the format.
                    let title = if query.stage.is_none() {
                        format!("#[Stage   = {}]\n", stage.word())
                    } else {
                        String::new()
                    };
                    title + &percentile_text(metrics.histogram(stage))
                });
                page(
                    StatusCode::OK,
                    "text/plain; charset=utf-8",
                    text.collect::<String>(),
                )
            }
            HistogramFormat::Json => {
                body["stages"] =
                    as_json(&|stage| json!(summarize(metrics.histogram(stage)))).into();
                json_page(StatusCode::OK, &body)
            }
            HistogramFormat::Buckets => {
                body["bounds"] = bucket_bounds().into();
                body["stages"] =
                    as_json(&|stage| bucket_counts(metrics.histogram(stage)).into()).into();
                json_page(StatusCode::OK, &body)
            }
            HistogramFormat::Percentiles => {
                body["stages"] =
                    as_json(&|stage| json!(percentile_points(metrics.histogram(stage)))).into();
                json_page(StatusCode::OK, &body)
            }
        };
        name_silent(page.headers_mut(), &silent);
        page
    }
}
