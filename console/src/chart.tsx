// Lines over time. This file and uPlot are loaded when they are needed.
import { effect } from "@preact/signals";
import uPlot from "uplot";
import style from "uplot/dist/uPlot.min.css";
import { clock, language, number, t, theme, zone } from "./i18n";
import { addSheet } from "./sheet";

addSheet(style);

export type Line = { label: string; colour: string };
export type Drawn = { set(data: number[][]): void; end(): void };

/** Draws into an element: the first row of the data are times, seconds since 1970. `level` is a line across, such as a percentile. */
export function draw(into: HTMLElement, lines: Line[], level?: () => number | undefined): Drawn {
  let data: number[][] = [[], ...lines.map(() => [])];
  let plot: uPlot | undefined;
  const make = () => {
    plot?.destroy();
    const colours = getComputedStyle(document.documentElement);
    const text = colours.getPropertyValue("--dim").trim();
    const grid = colours.getPropertyValue("--line").trim();
    const axis: uPlot.Axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const options: uPlot.Options = {
      width: Math.max(200, into.clientWidth),
      height: 200,
      axes: [
        { ...axis, space: 80, values: (_plot, splits) => splits.map((at) => clock(at, (splits.at(-1) ?? 0) - (splits[0] ?? 0))) },
        { ...axis, size: 60, values: (_plot, splits) => splits.map((value) => number(value, 3)) },
      ],
      scales: { y: { range: (_plot, _low, high) => [0, Math.max(high * 1.1, level?.() ?? 0, 0.01)] } },
      series: [
        { label: t("time"), value: (_plot, at: number | null) => (at === null ? "–" : clock(at, 0)) },
        ...lines.map((each) => ({ label: each.label, stroke: each.colour, width: 1.5, spanGaps: false, points: { show: false }, value: (_plot: uPlot, value: number | null) => (value === null ? "–" : number(value, 3)) })),
      ],
      hooks: {
        draw: [(made) => {
          const value = level?.();
          if (value === undefined) return;
          const y = made.valToPos(value, "y", true);
          made.ctx.save();
          made.ctx.strokeStyle = colours.getPropertyValue("--bad").trim();
          made.ctx.setLineDash([6, 4]);
          made.ctx.beginPath();
          made.ctx.moveTo(made.bbox.left, y);
          made.ctx.lineTo(made.bbox.left + made.bbox.width, y);
          made.ctx.stroke();
          made.ctx.restore();
        }],
      },
    };
    if (zone.value === "utc") options.tzDate = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC");
    plot = new uPlot(options, data as uPlot.AlignedData, into);
  };
  const dispose = effect(() => { void theme.value; void language.value; void zone.value; queueMicrotask(make); });
  const watched = new ResizeObserver(() => { if (plot && into.clientWidth > 0) plot.setSize({ width: Math.max(200, into.clientWidth), height: 200 }); });
  watched.observe(into);
  return {
    set(next) { data = next; plot?.setData(next as uPlot.AlignedData); },
    end() { dispose(); watched.disconnect(); plot?.destroy(); },
  };
}
