//! Each VM of a fleet beside the others, on the same scales.

use maud::html;
use serde_json::Value;

use super::Panel;
use super::chart::{Chart, Series};
use super::scale::{Scale, short};
use super::view::{View, bounded};
use crate::result::VmResult;
use crate::text::words::thousands;

/// VMs that are drawn; the others are in the table.
const MAX_DRAWN: usize = 24;

/// Left out of the page of a single run.
pub(super) fn panel(view: &View<'_>) -> Option<Panel> {
    let fleet = view.result.fleet.as_ref()?;
    let drawn: Vec<(&VmResult, View<'_>)> =
        fleet.per_vm_results.iter().take(MAX_DRAWN).map(|vm| (vm, View::new(&vm.result).on_axis_of(view))).collect();
    let rates = Scale::linear(drawn.iter().flat_map(|(_, view)| view.completed.iter().flatten().copied()));
    let p99s = Scale::log(drawn.iter().flat_map(|(_, view)| view.latency[2].iter().flatten().copied()));
    let cells: Vec<(&VmResult, [Chart<'_>; 2])> = drawn
        .iter()
        .enumerate()
        .map(|(at, (vm, own))| {
            let small = |id: &str, name: &str, unit, colour, values: &[Option<f64>], scale| {
                let (id, about) = (format!("c-vm{at}-{id}"), format!("{name} of {}", vm.hostname));
                let series = vec![Series::line(name, colour, values.to_vec())];
                let mut chart = Chart::new(&id, &about, &own.axis, unit, series);
                (chart.is_small, chart.scale) = (true, Some(scale));
                chart
            };
            let rate = small("rate", "completed", "completed requests per second", 0, &own.completed, rates);
            (*vm, [rate, small("p99", "latency p99", "milliseconds (p99), log scale", 1, &own.latency[2], p99s)])
        })
        .collect();
    let data: Vec<Value> = cells.iter().flat_map(|(_, charts)| charts.iter().map(Chart::data)).collect();
    let body = html! {
        @if !fleet.failed_vms.is_empty() {
            h3 { "Lost or missing" }
            ul class="errors" { @for vm in &fleet.failed_vms { li { b { (vm.hostname) } ": " (vm.error) } } }
        }
        div class="scroll" tabindex="0" role="region" aria-label="VMs as a table" {
            table {
                thead { tr {
                    th scope="col" { "VM" }
                    @for name in ["Rate", "p50", "p99", "ok", "Clock ahead", ""] { th scope="col" class="number" { (name) } }
                } }
                tbody {
                    @for vm in &fleet.per_vm_results {
                        tr {
                            th scope="row" { (vm.hostname) }
                            td class="number" { (short(vm.actual_rps)) "/s" }
                            td class="number" { (bounded(vm.result.latency_ms.figure("p50"))) }
                            td class="number" { (bounded(vm.result.latency_ms.figure("p99"))) }
                            td class="number" { (thousands(vm.result.accounting.ok)) }
                            td class="number" {
                                @match &vm.clock {
                                    Some(clock) => { (format!("{:.1} ± {:.1} ms", clock.offset_ms, clock.bound_ms)) }
                                    None => "–",
                                }
                            }
                            td class="number bad" { @if vm.lost.is_some() { "lost" } }
                        }
                    }
                }
            }
        }
        div class="vms" {
            @for (vm, charts) in &cells {
                div class="vm" {
                    h3 { (vm.hostname) @if vm.lost.is_some() { span class="lost" { " lost" } } }
                    @for chart in charts { (chart.markup()) }
                }
            }
        }
        @if fleet.per_vm_results.len() > MAX_DRAWN {
            p class="small" { "Only the first " (MAX_DRAWN) " VMs are drawn; all are in the table." }
        }
    };
    let lead = format!(
        "{} VMs ran one schedule together. All are on the same scales: a pooled p99 can be one bad VM.",
        fleet.num_vms
    );
    Some(Panel::new("vms", "VMs", &lead, body, data))
}
