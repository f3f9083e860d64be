"use strict";

// Decode the counts of a COCO RLE: runs of zeros, ones, zeros, ..., in column-major order.
function decodeCounts(counts) {
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

// Spans of ones, column by column: x, top, bottom (exclusive), x, top, ...
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

// Closed outlines of a mask, each [x, y, x, y, ...] in pixels: clockwise around its parts,
// counterclockwise around holes. Pixels that touch only at a corner are separate.
function outlines(counts, height) {
  const spans = columnSpans(decodeCounts(counts), height), loops = [];
  if (!spans.length) return loops;
  let top = height, bottom = 0;
  for (let i = 0; i < spans.length; i += 3) {
    top = Math.min(top, spans[i + 1]);
    bottom = Math.max(bottom, spans[i + 2]);
  }
  const left = spans[0], right = spans[spans.length - 3] + 1;

  // The bounding box of the mask, column by column, with a border of zeros.
  const stride = bottom - top + 2;
  const grid = new Uint8Array((right - left + 2) * stride);
  const cell = (x, y) => (x - left + 1) * stride + y - top + 1;
  for (let i = 0; i < spans.length; i += 3) {
    const first = cell(spans[i], spans[i + 1]);
    grid.fill(1, first, first + spans[i + 2] - spans[i + 1]);
  }

  // Follow the edges with the mask on the right: east, south, west, north.
  const stepX = [1, 0, -1, 0], stepY = [0, 1, 0, -1];
  // Offsets from the pixel south-east of a corner to the two pixels ahead.
  const aheadLeft = [-1, 0, -stride, -stride - 1], aheadRight = [0, -stride, -stride - 1, -1];
  for (let i = 0; i < spans.length; i += 3) {
    const startX = spans[i], startY = spans[i + 1], start = cell(startX, startY);
    if (grid[start] !== 1 || grid[start - 1]) continue;  // already followed, or not an upper edge
    const loop = [];
    let x = startX, y = startY, heading = 0;
    do {
      if (heading === 0) grid[cell(x, y)] = 2;  // mark this upper edge as followed
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
