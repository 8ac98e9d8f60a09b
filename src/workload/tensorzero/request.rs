//! One request: everything that its four rows contain, as a function of (seed, slot) and, for the ids, of the time.

use std::fmt::Write;

use uuid::Uuid;

use super::Workload;
use crate::random::SplitMix64;
use crate::workload::ids::{row_id, uuid_v7};
use crate::workload::payload::{Cut, Pool};

macro_rules! functions {
    ($($number:literal)*) => { [$((concat!("function_", $number), concat!("rate_limit:function_", $number))),*] };
}

/// The names of functions, and the keys of their buckets.
const FUNCTIONS: [(&str, &str); 10] = functions!(1 2 3 4 5 6 7 8 9 10);
const VARIANTS: [&str; 5] = ["variant_1", "variant_2", "variant_3", "variant_4", "variant_5"];
const MODELS: [&str; 6] =
    ["gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "claude-3-5-sonnet", "claude-3-opus", "claude-3-haiku"];
const PROVIDERS: [&str; 3] = ["openai", "anthropic", "azure"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "development"];

/// `model_inference.input_messages`
pub(super) const INPUT_MESSAGES: &str = r#"[{"role":"user","content":"test message"}]"#;
/// `model_inference.output`
pub(super) const MODEL_OUTPUT: &str = r#"{"content":"model response content"}"#;

#[derive(Clone, Debug)]
pub struct RequestMaker {
    pub(super) workload: Workload,
    sizes: [usize; 4],
    pub(super) seed: u64,
    pool: Pool,
    /// Drawn once a process, so that two runs with one seed on one database never make the same id.
    nonce: u64,
}

/// The contents of the rows of one request. Reused from slot to slot, so that nothing is allocated while the test runs.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `chat_inference.id`, and `model_inference.inference_id`
    pub(super) inference_id: Uuid,
    /// `episode_id` in `chat_inference` and `variant_by_episode`
    pub(super) episode_id: Uuid,
    pub(super) model_inference_id: Uuid,
    pub(super) function_name: &'static str,
    /// `rate_limit:function_N` of the same function
    pub(super) bucket_key: &'static str,
    pub(super) variant_name: &'static str,
    /// Where `chat_inference.input` is cut from the pool.
    pub(super) input: Cut,
    pub(super) output: Cut,
    pub(super) raw_request: Cut,
    pub(super) raw_response: Cut,
    /// `{"temperature":…,"max_tokens":…}`
    pub(super) inference_params: String,
    /// `{"env":…,"user_id":…,"request_id":…}`
    pub(super) tags: String,
    /// Milliseconds, 100 … 3000
    pub(super) processing_time_ms: i32,
    pub(super) model_name: &'static str,
    pub(super) model_provider_name: &'static str,
    pub(super) input_tokens: i32,
    pub(super) output_tokens: i32,
    /// Milliseconds, 200 … 5000
    pub(super) response_time_ms: i32,
}

impl RequestMaker {
    /// A maker for one run; `pool` is that of the workload and the seed. `nonce` must differ between processes.
    pub fn new(workload: Workload, seed: u64, pool: Pool, nonce: u64) -> Self {
        Self { workload, sizes: workload.sizes(), seed, pool, nonce }
    }

    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Differs between processes.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What the ids of all rows of this process have in common.
    pub fn tag(&self) -> [u8; 4] {
        ((self.nonce >> 32) as u32).to_be_bytes()
    }

    /// The ID by which the request that was made for `slot` with `unix_ms` can be looked up.
    pub fn id_of(&self, slot: u64, unix_ms: u64) -> Uuid {
        row_id(unix_ms, self.tag(), &mut self.ids(slot))
    }

    fn ids(&self, slot: u64) -> SplitMix64 {
        SplitMix64::for_slot(self.nonce ^ self.seed, slot)
    }

    /// Fills `request` with the contents for `slot`; the ids carry `unix_ms`, milliseconds since 1970.
    pub fn fill(&self, request: &mut Request, slot: u64, unix_ms: u64) {
        let random = &mut SplitMix64::for_slot(self.seed, slot);
        (request.function_name, request.bucket_key) = FUNCTIONS[random.below(10) as usize];
        request.variant_name = pick(&VARIANTS, random);
        [request.input, request.output, request.raw_request, request.raw_response] =
            self.sizes.map(|size| self.pool.cut(size, random));
        request.processing_time_ms = random.between(100, 3000);
        request.model_name = pick(&MODELS, random);
        request.model_provider_name = pick(&PROVIDERS, random);
        request.input_tokens = random.between(100, 8000);
        request.output_tokens = random.between(50, 4000);
        request.response_time_ms = random.between(200, 5000);
        let (temperature, max_tokens) = (random.between(0, 100), random.between(100, 4000));
        let env = pick(&ENVIRONMENTS, random);

        let ids = &mut self.ids(slot);
        request.inference_id = row_id(unix_ms, self.tag(), ids);
        request.episode_id = row_id(unix_ms, self.tag(), ids);
        request.model_inference_id = row_id(unix_ms, self.tag(), ids);
        write_json(
            &mut request.inference_params,
            format_args!(
                r#"{{"temperature":{}.{:02},"max_tokens":{max_tokens}}}"#,
                temperature / 100,
                temperature % 100
            ),
        );
        let (user_id, request_id) = (uuid_v7(unix_ms, ids), uuid_v7(unix_ms, ids));
        write_json(
            &mut request.tags,
            format_args!(r#"{{"env":"{env}","user_id":"{user_id}","request_id":"{request_id}"}}"#),
        );
    }
}

fn pick<T: Copy>(from: &[T], random: &mut SplitMix64) -> T {
    from[random.below(from.len() as u64) as usize]
}

/// Writing to a `String` cannot fail.
fn write_json(into: &mut String, json: std::fmt::Arguments<'_>) {
    into.clear();
    let _ = into.write_fmt(json);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ids::TAG_BYTES;

    fn maker(seed: u64, nonce: u64) -> RequestMaker {
        let workload = Workload::of_kb(10.0);
        RequestMaker::new(workload, seed, workload.pool(seed), nonce)
    }

    fn request(maker: &RequestMaker, slot: u64) -> Request {
        let mut request = Request::default();
        maker.fill(&mut request, slot, 1_700_000_000_123);
        request
    }

    #[test]
    fn contents_depend_on_seed_and_slot_alone_and_ids_also_on_the_process() {
        let (one, other_process, other_seed) =
            (request(&maker(1, 10), 7), request(&maker(1, 11), 7), request(&maker(2, 10), 7));
        assert_eq!((one.output, one.raw_response), (other_process.output, other_process.raw_response));
        assert_eq!(one.inference_params, other_process.inference_params);
        assert_ne!(one.inference_id, other_process.inference_id);
        assert_ne!(one.output, other_seed.output);
        assert_ne!(one.output, request(&maker(1, 10), 8).output);
    }

    #[test]
    fn ids_are_version_7_with_the_given_time_and_all_different() {
        let maker = maker(1, 10);
        let mut seen = std::collections::HashSet::new();
        for slot in 0..1_000 {
            let request = request(&maker, slot);
            for id in [request.inference_id, request.episode_id, request.model_inference_id] {
                assert_eq!(id.get_version_num(), 7);
                assert_eq!(id.as_u128() >> 80, 1_700_000_000_123);
                assert!(seen.insert(id));
            }
        }
    }

    #[test]
    fn the_ids_of_a_process_can_be_told_and_made_again() {
        let (one, other) = (maker(1, 0x0123_4567_89AB_CDEF), maker(1, 0xFEDC_BA98_7654_3210));
        assert_eq!(one.tag(), [0x01, 0x23, 0x45, 0x67]);
        for slot in 0..100 {
            let made = request(&one, slot);
            for id in [made.inference_id, made.episode_id, made.model_inference_id] {
                assert_eq!(id.as_bytes()[TAG_BYTES], one.tag());
            }
            assert_eq!(one.id_of(slot, 1_700_000_000_123), made.inference_id);
            assert_ne!(request(&other, slot).inference_id.as_bytes()[TAG_BYTES], one.tag());
        }
    }

    #[test]
    fn small_json_is_valid() {
        let maker = maker(3, 0);
        for slot in 0..200 {
            let request = request(&maker, slot);
            let params: serde_json::Value = serde_json::from_str(&request.inference_params).unwrap();
            assert!((0.0..=1.0).contains(&params["temperature"].as_f64().unwrap()));
            let tags: serde_json::Value = serde_json::from_str(&request.tags).unwrap();
            assert_eq!(tags.as_object().unwrap().len(), 3);
        }
        for json in [INPUT_MESSAGES, MODEL_OUTPUT] {
            serde_json::from_str::<serde_json::Value>(json).unwrap();
        }
    }

    #[test]
    fn all_functions_and_variants_are_used() {
        let maker = maker(4, 0);
        let requests: Vec<Request> = (0..500).map(|slot| request(&maker, slot)).collect();
        let distinct =
            |of: fn(&Request) -> &'static str| requests.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(distinct(|r| r.function_name), 10);
        assert_eq!(distinct(|r| r.variant_name), 5);
        assert_eq!(distinct(|r| r.model_name), 6);
    }
}
