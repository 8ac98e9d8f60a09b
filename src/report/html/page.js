// Exact values under the pointer, zoom, switches and the download. The page is whole without it.
'use strict';
(() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = one('#tip');

  const short = (value) => {
    if (value === null || value === undefined) return '–';
    const size = Math.abs(value);
    const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4;
    return value.toLocaleString('en', { maximumFractionDigits: digits });
  };
  const two = (number) => String(number).padStart(2, '0');
  const time = (seconds, span) => {
    if (span <= 120) return `${Number(seconds.toFixed(2))} s`;
    const whole = Math.round(seconds);
    const rest = two(whole % 60);
    if (span < 3600) return `${Math.floor(whole / 60)}:${rest}`;
    const [hours, minutes] = [Math.floor(whole / 3600), two(Math.floor(whole / 60) % 60)];
    return whole % 60 === 0 ? `${hours}h${minutes}` : `${hours}:${minutes}:${rest}`;
  };
  const STEPS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];
  const timeTicks = (low, high) => {
    const step = STEPS.find((step) => (high - low) / step <= 5.01) || (high - low) / 5;
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high * 1.0000001; at += 1) ticks.push(at * step);
    return ticks;
  };

  class Chart {
    constructor(data) {
      Object.assign(this, data);
      this.root = one(`[data-chart="${this.id}"]`);
      this.plot = one('.plot', this.root);
      this.cursor = one('.cursor', this.root);
      this.off = new Set();
      this.at = null;
      this.count = Math.max(0, ...this.series.map((series) => series.values.length));
      this.full = this.x;
      this.selection = document.createElementNS(SVG, 'rect');
      this.selection.setAttribute('class', 'selection');
      this.selection.setAttribute('height', this.cursor.getAttribute('y2'));
      this.listen();
    }

    show(low, high) {
      this.x = [low, high];
      for (const data of all('.data', this.root)) {
        const view = data.viewBox.baseVal;
        data.setAttribute('viewBox', `${low} 0 ${high - low} ${view.height}`);
      }
      const axis = one('.x', this.plot);
      const y = one('text', axis)?.getAttribute('y');
      if (!y) return;
      const ticks = timeTicks(low, high);
      const part = (tick) => (tick - low) / (high - low);
      axis.replaceChildren(...ticks.map((tick, index) => {
        const share = part(tick);
        const text = document.createElementNS(SVG, 'text');
        text.setAttribute('x', `${share * 100}%`);
        text.setAttribute('y', y);
        text.setAttribute('text-anchor', share < 0.03 ? 'start' : share > 0.97 ? 'end' : 'middle');
        // As in the page: a label at the very end stands left of its place.
        if (ticks.length > 5 && index === ticks.length - 2 && part(ticks.at(-1)) > 0.97) text.classList.add('dense');
        text.textContent = time(tick, high);
        return text;
      }));
    }

    share(event) {
      const box = this.plot.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    }

    value(share) {
      return this.x[0] + share * (this.x[1] - this.x[0]);
    }

    point(value) {
      const share = (value - this.x[0]) / (this.x[1] - this.x[0]);
      const inside = share >= 0 && share <= 1;
      this.cursor.style.visibility = inside ? 'visible' : 'hidden';
      for (const end of ['x1', 'x2']) this.cursor.setAttribute(end, `${share * 100}%`);
    }

    // What stands at a place: a name, values and events.
    told(value) {
      const at = Math.min(this.count - 1, Math.max(0, Math.floor((value - this.full[0]) / this.step)));
      const from = this.full[0] + at * this.step;
      const percentile = 100 * (1 - 10 ** -(from + this.step / 2));
      const digits = Math.max(1, Math.ceil(from));
      const head = this.time
        ? `${time(from, this.full[1])} – ${time(from + this.step, this.full[1])}`
        : `percentile ${percentile.toFixed(digits)}`;
      const rows = this.series.map((series, index) => [series.name, series.values[at], index])
        .filter(([, value, index]) => value !== null && value !== undefined && !this.off.has(index));
      if (this.stacked) rows.reverse();
      // An event without a length may stand on the edge of a step.
      const isIn = ([low, high]) => low < from + this.step && (high > from || low >= from);
      const events = this.bands.filter(isIn).map((band) => band[2]);
      return { head, rows, events, at };
    }

    tell(value, x, y) {
      if (!this.count) return;
      const { head, rows, events } = this.told(value);
      const make = (name, text, className) => {
        const element = document.createElement(name);
        element.textContent = text;
        if (className) element.className = className;
        return element;
      };
      const unit = this.unit.split(',')[0].replace('milliseconds', 'ms').replace(/.*per second/, '/s');
      const lines = rows.map(([name, value]) => {
        const row = make('div', '', 'row');
        row.append(make('span', name), make('span', `${short(value)} ${unit}`));
        return row;
      });
      tip.replaceChildren(make('b', head), ...lines, ...events.map((event) => make('div', event, 'event')));
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${Math.max(8, Math.min(innerHeight - box.height - 8, y + 16))}px`;
    }

    hover(value, x, y) {
      for (const chart of this.time ? charts.filter((chart) => chart.time) : [this]) chart.point(value);
      this.tell(value, x, y);
    }

    leave() {
      for (const chart of charts) chart.cursor.style.visibility = 'hidden';
      tip.hidden = true;
    }

    listen() {
      let from = null;
      const end = () => {
        from = null;
        this.selection.remove();
      };
      this.plot.addEventListener('pointerdown', (event) => {
        if (event.button !== 0 || event.pointerType === 'touch' || !this.time) return;
        from = this.share(event);
        this.plot.setPointerCapture(event.pointerId);
      });
      this.plot.addEventListener('pointermove', (event) => {
        const share = this.share(event);
        this.hover(this.value(share), event.clientX, event.clientY);
        if (from === null) return;
        this.selection.setAttribute('x', `${Math.min(from, share) * 100}%`);
        this.selection.setAttribute('width', `${Math.abs(from - share) * 100}%`);
        this.plot.append(this.selection);
      });
      this.plot.addEventListener('pointerup', (event) => {
        if (from === null) return;
        const to = this.share(event);
        if (Math.abs(to - from) > 0.01) zoom(...[from, to].sort((a, b) => a - b).map((share) => this.value(share)));
        end();
      });
      this.plot.addEventListener('pointercancel', end);
      this.plot.addEventListener('pointerleave', () => this.leave());
      this.plot.addEventListener('blur', () => this.leave());
      this.plot.addEventListener('dblclick', () => reset());
      this.plot.addEventListener('keydown', (event) => this.key(event));
      for (const button of all('.legend button', this.root)) {
        button.addEventListener('click', () => this.toggle(Number(button.dataset.series), button));
      }
    }

    // Left and right move the cursor, plus and minus zoom around it.
    key(event) {
      const middle = (this.x[0] + this.x[1]) / 2;
      const place = this.at ?? middle;
      const steps = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in steps) {
        const moved = (this.at === null ? middle : this.at) + steps[event.key] * this.step;
        this.at = Math.min(this.x[1], Math.max(this.x[0], moved));
        const box = this.plot.getBoundingClientRect();
        const share = (this.at - this.x[0]) / (this.x[1] - this.x[0]);
        this.hover(this.at, box.left + share * box.width, box.top + 20);
      } else if (this.time && (event.key === '+' || event.key === '-')) {
        const half = ((this.x[1] - this.x[0]) / 2) * (event.key === '+' ? 0.5 : 2);
        zoom(place - half, place + half);
      } else {
        return;
      }
      event.preventDefault();
    }

    toggle(index, button) {
      const isOff = !this.off.delete(index);
      if (isOff) this.off.add(index);
      button.setAttribute('aria-pressed', String(!isOff));
      one(`path[data-series="${index}"]`, this.plot).classList.toggle('off', isOff);
      if (this.stacked) this.stack();
    }

    // Areas lie upon those that are shown.
    stack() {
      const below = new Array(this.count).fill(0);
      const y = (value) => (this.height * (1 - Math.min(1, value / this.high))).toFixed(1);
      this.series.forEach((series, index) => {
        if (this.off.has(index)) return;
        let path = '';
        let back = '';
        series.values.forEach((value, at) => {
          const [left, right] = [this.full[0] + at * this.step, this.full[0] + (at + 1) * this.step];
          const top = below[at] + (value || 0);
          path += `${path ? 'L' : 'M'}${left} ${y(top)}H${right}`;
          back = `L${right} ${y(below[at])}H${left}${back}`;
          below[at] = top;
        });
        one(`path[data-series="${index}"]`, this.plot).setAttribute('d', `${path}${back}Z`);
      });
    }
  }

  const charts = [];
  const isTime = (chart) => chart.time && chart.count > 0;
  const zoom = (low, high) => {
    const timed = charts.filter(isTime);
    const least = Math.min(...timed.map((chart) => chart.full[0]));
    const most = Math.max(...timed.map((chart) => chart.full[1]));
    const smallest = Math.min(...timed.map((chart) => chart.step)) * 2;
    const [from, to] = [Math.max(least, low), Math.min(most, high)];
    if (to - from < smallest) return;
    for (const chart of timed) chart.show(from, to);
    one('#reset').hidden = from === least && to === most;
  };
  const reset = () => zoom(-Infinity, Infinity);

  for (const data of JSON.parse(one('#charts').textContent)) charts.push(new Chart(data));
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') reset();
  });
  one('#reset').addEventListener('click', reset);

  const theme = one('#theme');
  theme.hidden = false;
  theme.addEventListener('click', () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = isDark ? 'light' : 'dark';
  });

  // On paper nothing can be opened.
  addEventListener('beforeprint', () => all('details').forEach((details) => { details.open = true; }));

  const download = one('#download');
  if (download) {
    download.hidden = false;
    download.addEventListener('click', () => {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([one('#document').textContent], { type: 'application/json' }));
      link.download = 'result.json';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
})();
