/** The operators' page: follows the gateway, and does what operators ask for. */

import { act, follow, setToken } from "./ops-feed.js";
import { SPAN_S } from "./ops-chart.js";
import * as view from "./ops-view.js";

const { $ } = view;
const FLIPS = ["activate"];

/** Finals and flips with `at`, seconds of our own clock, so that they grow old by themselves. */
let finals = [];
const events = new Map();
let newest = null;

const now_s = () => performance.now() / 1000;
const aged = (all) => all.map((one) => ({ ...one, age_s: now_s() - one.at })).filter((one) => one.age_s < SPAN_S);

function showState(state) {
  newest = state.swap;
  const fresh = newest?.name ? view.reference(newest) : null;
  const skew_s = now_s() - Date.parse(state.at) / 1000;
  finals = aged([...finals, ...state.finals.map((one) => ({ ...one, at: now_s() - one.age_s }))]);
  const drawn = finals.map((one) => ({ ...one, fresh: one.model === fresh }));
  const flips = [...events.values()]
    .filter(({ step }) => FLIPS.includes(step))
    .map(({ at, swap }) => ({ at: Date.parse(at) / 1000 + skew_s, label: `swap ${swap}` }));
  view.showLogin(false);
  view.showLink(state.status === "ready" ? "Live" : state.status, "live");
  view.showNumbers(state, finals);
  view.showModels(state.models, finals, rollBack);
  view.showChart(drawn, aged(flips));
  view.showSwap(newest, [...events.values()].filter(({ swap }) => swap === newest?.number), state.limits);
}

function showStep(event) {
  if (events.has(event.seq)) return;
  events.set(event.seq, event);
  view.showEvent(event);
}

async function perform(path, body) {
  view.showProblem();
  try {
    await act(path, body);
  } catch (error) {
    view.showProblem(error.message);
  }
}

async function rollBack(model) {
  const ends = view.canEnd(newest) ? ` Swap ${newest.number}, which is under way, is given up.` : "";
  const why = await view.confirmed({
    title: `Roll back ${view.reference(model)}?`,
    text: `The bytes of ${model.back} serve again at once, under a new, higher revision. Open utterances end on ${view.reference(model)}.${ends}`,
    yes: "Roll back",
  });
  if (why !== null) await perform("rollback", { name: model.name, why });
}

async function abort() {
  const { number, title } = newest;
  const why = await view.confirmed({
    title: `Abort swap ${number}?`,
    text: `${title}: its model leaves memory, and what serves now goes on.`,
    yes: "Abort the swap",
  });
  if (why !== null) await perform(`swaps/${number}/abort`, { why });
}

function watch() {
  follow({
    state: showState,
    step: showStep,
    link: (up) => (up ? view.showProblem() : view.showLink("No connection; trying again", "lost")),
    refused: (why) => {
      view.showLink("Not an operator", "lost");
      view.showProblem(why);
      view.showLogin(true);
    },
  });
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value);
  $("token").value = "";
  view.showProblem();
  watch();
});
$("promote").addEventListener("click", () => perform(`swaps/${newest.number}/promote`, {}));
$("abort").addEventListener("click", abort);
watch();
