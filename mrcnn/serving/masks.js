"use strict";

// Run lengths of a COCO mask: of zeros, ones, zeros, ..., down one column after the other.
function runLengths(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    for (let shift = 0, more = true; more; shift += 5) {
      const bits = counts.charCodeAt(at++) - 48;  // 5 bits, then "more follow"
      value |= (bits & 31) << shift;
      more = (bits & 32) !== 0;
      if (!more && bits & 16) value |= -32 << shift;  // the sign
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// The ones, column by column: x, top, bottom (exclusive), x, top, ...
function columnSpans(runs, height) {
  const spans = [];
  let at = 0;
  runs.forEach((length, number) => {
    const end = at + length;
    while (number % 2 && at < end) {
      const x = Math.floor(at / height), next = Math.min(end, (x + 1) * height);
      spans.push(x, at - x * height, next - x * height);
      at = next;
    }
    at = end;
  });
  return spans;
}

// Closed loops around a mask, [x, y, x, y, ...] corner by corner, in pixels: clockwise around its
// parts, the other way around holes. Pixels that touch at a corner only are apart.
function outlines(counts, height) {
  const spans = columnSpans(runLengths(counts), height), loops = [];
  if (!spans.length) return loops;
  let top = height, bottom = 0;
  for (let i = 0; i < spans.length; i += 3) {
    top = Math.min(top, spans[i + 1]);
    bottom = Math.max(bottom, spans[i + 2]);
  }
  const left = spans[0], right = spans[spans.length - 3] + 1;

  // The part of the mask that is not empty, column by column, in a frame of zeros.
  const stride = bottom - top + 2;
  const grid = new Uint8Array((right - left + 2) * stride);
  const cell = (x, y) => (x - left + 1) * stride + y - top + 1;
  for (let i = 0; i < spans.length; i += 3) {
    const first = cell(spans[i], spans[i + 1]);
    grid.fill(1, first, first + spans[i + 2] - spans[i + 1]);
  }

  // A walk on the edges between pixels with the mask at its right hand: east, south, west, north.
  const stepX = [1, 0, -1, 0], stepY = [0, 1, 0, -1];
  // From the pixel south-east of a corner to those ahead of a walker there.
  const aheadLeft = [-1, 0, -stride, -stride - 1], aheadRight = [0, -stride, -stride - 1, -1];
  for (let i = 0; i < spans.length; i += 3) {
    const startX = spans[i], startY = spans[i + 1], start = cell(startX, startY);
    if (grid[start] !== 1 || grid[start - 1]) continue;  // walked along, or no upper edge
    const loop = [];
    let x = startX, y = startY, heading = 0;
    do {
      if (heading === 0) grid[cell(x, y)] = 2;  // its upper edge is walked along
      x += stepX[heading];
      y += stepY[heading];
      const here = cell(x, y);
      if (!grid[here + aheadRight[heading]]) heading = (heading + 1) % 4;
      else if (grid[here + aheadLeft[heading]]) heading = (heading + 3) % 4;
      else continue;
      loop.push(x, y);
    } while (x !== startX || y !== startY || heading !== 0);
    loops.push(loop);
  }
  return loops;
}
