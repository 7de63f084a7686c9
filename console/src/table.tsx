// A table of which only the rows that are seen are in the document.
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

export type Column<T> = { label: string; cell: (row: T) => ComponentChildren; num?: boolean; sort?: string };

const ROW = 35;
const AROUND = 12;

type Asked<T> = {
  columns: Column<T>[];
  /** How many rows there are; those that `row` does not have yet are asked for by `need`. */
  count: number;
  row: (index: number) => T | undefined;
  name: (row: T) => string;
  need?: (first: number, last: number) => void;
  sorted?: { by: string; descending: boolean };
  sort?: (by: string) => void;
  label: string;
};

export function VirtualTable<T>({ columns, count, row, name, need, sorted, sort, label }: Asked<T>) {
  const box = useRef<HTMLDivElement>(null);
  const view = useSignal({ first: 0, last: 60 });
  const look = () => {
    const element = box.current;
    if (!element) return;
    const first = Math.max(0, Math.floor(element.scrollTop / ROW) - AROUND);
    const last = Math.ceil((element.scrollTop + element.clientHeight) / ROW) + AROUND;
    if (first !== view.value.first || last !== view.value.last) view.value = { first, last };
  };
  useEffect(() => {
    look();
    const watched = new ResizeObserver(look);
    if (box.current) watched.observe(box.current);
    return () => watched.disconnect();
  }, []);
  const first = Math.min(view.value.first, Math.max(0, count - 1));
  const last = Math.min(view.value.last, count);
  useEffect(() => { need?.(first, last); }, [first, last, count]);
  const rows = [];
  for (let index = first; index < last; index += 1) {
    const found = row(index);
    rows.push(
      <tr key={found ? name(found) : `row-${index}`} style={{ height: `${ROW}px` }} aria-rowindex={index + 2}>
        {found
          ? columns.map((column) => <td key={column.label} class={column.num ? "num" : undefined}>{column.cell(found)}</td>)
          : <td colSpan={columns.length} class="dim">…</td>}
      </tr>,
    );
  }
  return (
    <div class="virtual card" ref={box} onScroll={look} tabIndex={0} role="region" aria-label={label} style={{ padding: 0 }}>
      <table aria-rowcount={count + 1}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.label} class={column.num ? "num" : undefined} scope="col"
                aria-sort={sorted && column.sort === sorted.by ? (sorted.descending ? "descending" : "ascending") : undefined}>
                {column.sort && sort
                  ? <button onClick={() => sort(column.sort as string)}>{column.label}{sorted?.by === column.sort ? (sorted.descending ? " ▼" : " ▲") : ""}</button>
                  : column.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {first > 0 ? <tr aria-hidden="true" style={{ height: `${first * ROW}px` }}><td colSpan={columns.length} style={{ padding: 0, border: 0 }} /></tr> : null}
          {rows}
          {last < count ? <tr aria-hidden="true" style={{ height: `${(count - last) * ROW}px` }}><td colSpan={columns.length} style={{ padding: 0, border: 0 }} /></tr> : null}
        </tbody>
      </table>
    </div>
  );
}

/** A plain table, for what is never long. */
export function Table<T>({ columns, rows, name }: { columns: Column<T>[]; rows: T[]; name: (row: T) => string | number }) {
  return (
    <div class="scroll card" style={{ padding: 0 }} tabIndex={0} role="region">
      <table>
        <thead><tr>{columns.map((column) => <th key={column.label} scope="col" class={column.num ? "num" : undefined}>{column.label}</th>)}</tr></thead>
        <tbody>
          {rows.map((row) => (
            <tr key={name(row)}>{columns.map((column) => <td key={column.label} class={column.num ? "num" : undefined}>{column.cell(row)}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
