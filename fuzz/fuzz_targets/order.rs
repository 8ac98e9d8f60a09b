//! A line that an agent reads, and the plan that it makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::protocol::Order;
use postgres_load_test::testing::Environment;
use postgres_load_test::testing::Plan;

fuzz_target!(|line: &[u8]| {
    if let Ok(Order::Plan(order)) = serde_json::from_slice::<Order>(line) {
        let mut environment = Environment::of_user("me");
        if let Some(password) = &order.pgpassword {
            environment = environment.with("PGPASSWORD", password);
        }
        if let Ok(plan) = Plan::resolve(&order.options, &environment, 1_800_000_000_000_000_000, 4) {
            _ = plan.coordinated(order.share, false).config("db".to_owned());
        }
    }
});
